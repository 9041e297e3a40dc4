"""Labels in control: they add up, outlive workers, and are judged by whole cohorts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest

from gnomon_server.control import labels
from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.verdict import verdict
from gnomon_server.settings import Policy
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.labels import CohortCounts, Label, LabelTally, PairLabels
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.tallies import Observed

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
POLICY = Policy(labels=3600.0, loss=0.05, min_requests=1, min_duration=0.0, block=1)
PAIR = Pair("m", 1, 2)


def cohort(age: float, *excesses: float) -> CohortCounts:
    """A cohort whose last request is `age` seconds old."""
    counts = tuple(SYM64.counts((1 + np.array(excesses)) / 2).tolist())
    until = NOW - timedelta(seconds=age)
    return CohortCounts(round(until.timestamp() * 1e9), len(excesses), len(excesses), counts, counts)


def tally(*cohorts: CohortCounts, **counts: object) -> LabelTally:
    return msgspec.structs.replace(LabelTally("basis", "label", "label", cohorts=cohorts), **counts)


def decision(found: LabelTally, policy: Policy = POLICY, now: datetime = NOW) -> str:
    evidence = Evidence(Observed("of", 1, 1000), since=NOW - timedelta(days=1))
    return verdict(labels.judged(evidence, found, policy, now), policy, now).decision


def test_only_whole_cohorts_of_which_no_label_can_come_any_more_are_judged() -> None:
    young, old = cohort(3599, *[0.0] * 500), cohort(3700, *[1.0] * 3)
    assert labels.due(tally(old, young), POLICY, NOW)[:2] == (3, 3)
    assert labels.due(tally(old, young), POLICY, NOW + timedelta(seconds=10))[:2] == (503, 503)
    assert labels.due(tally(), POLICY, NOW)[:2] == (0, 0)


def test_labels_judge_in_place_of_the_disagreement_where_the_policy_asks_for_them() -> None:
    good, bad = tally(cohort(9999, *[0.0] * 900)), tally(cohort(9999, *[0.0] * 700, *[1.0] * 200))
    assert (decision(good), decision(bad), decision(tally())) == ("promote", "reject", "keep watching")
    evidence = Evidence(Observed("of"))
    assert labels.judged(evidence, good, Policy(), NOW) is evidence


def test_a_shadow_that_is_right_more_often_is_promoted_though_it_disagrees() -> None:
    assert decision(tally(cohort(9999, *[0.0] * 600, *[-1.0] * 300))) == "promote"


def test_tallies_add_up_and_losses_that_cannot_be_compared_stay_apart() -> None:
    one, other = tally(cohort(10, 1.0), joined=3, rows=3), tally(cohort(10, 0.0), cohort(5, 0.0), joined=2, rows=2)
    found = labels.merge(one, other)
    assert (found.joined, found.rows, [c.requests for c in found.cohorts]) == (5, 5, [2, 1])
    newer = msgspec.structs.replace(other, basis="other")
    apart = labels.merge(one, newer)
    assert (apart.joined, apart.rows, apart.cohorts, apart.basis) == (5, 2, newer.cohorts, "other")
    assert labels.merge(labels.NONE, one) == labels.merge(one, labels.NONE) == one


def test_of_many_cohorts_the_oldest_become_one() -> None:
    found = labels.NONE
    for age in range(500, 0, -1):
        found = labels.merge(found, tally(cohort(age, 0.0)))
    assert len(found.cohorts) == labels.MOST
    assert sum(c.requests for c in found.cohorts) == 500
    assert found.cohorts[-1] == cohort(1, 0.0)


def test_joined_labels_outlive_their_worker_and_what_waited_is_unknown() -> None:
    ledger = Ledger(clock=lambda: NOW)

    def report(found: LabelTally) -> WorkerReport:
        return WorkerReport("e", (), (), (), 0, (), 0, labels=(PairLabels("m", 1, 2, found),))

    ledger.worker_reported(report(tally(cohort(10, 1.0), joined=3, waiting=2)))
    # One that was overtaken.
    ledger.worker_reported(report(tally(joined=2)))
    assert (ledger.totals(PAIR).labels.joined, ledger.totals(PAIR).labels.waiting) == (3, 2)
    ledger.epoch_ended("e")
    ledger.worker_reported(report(tally(joined=9)))
    found = ledger.totals(PAIR).labels
    assert (found.joined, found.unknown, found.waiting, found.cohorts) == (3, 2, 0, (cohort(10, 1.0),))


def test_labels_that_are_on_their_way_between_servers_wait_and_outlive_their_worker() -> None:
    ledger = Ledger(clock=lambda: NOW)

    def report(found: LabelTally, *strays: Label) -> WorkerReport:
        return WorkerReport("e", (), (), (), 0, (), 0, labels=(PairLabels("m", 1, 2, found, strays),))

    ledger.worker_reported(report(tally(cohort(10, 1.0), joined=3, waiting=2)))
    strays = Label("r", ("1",)), Label("s", ("1",))
    # It has received no less than before.
    ledger.worker_reported(report(tally(cohort(10, 1.0), joined=3, forwarded=2), *strays))
    ledger.epoch_ended("e")
    for expected in ([(PAIR, strays)], []):
        found = ledger.totals(PAIR).labels
        assert (found.joined, found.waiting, found.unknown, found.forwarded) == (3, 2, 0, 2)
        assert (found.basis, found.cohorts) == (tally().basis, (cohort(10, 1.0),))
        assert ledger.take_strays() == expected
    ledger.hold(PAIR, waiting=-2, unknown=2)
    assert ledger.comparisons() == (ledger.totals(PAIR),)
    assert (ledger.totals(PAIR).labels.waiting, ledger.totals(PAIR).labels.unknown) == (0, 2)


def test_a_comparison_that_was_stored_before_there_were_labels_is_read() -> None:
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(Comparison(PAIR)))
    del stored["labels"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=Comparison) == Comparison(PAIR)


@pytest.mark.parametrize("seed", range(5))
def test_a_shadow_that_is_wrong_more_often_is_rejected_however_often_its_labels_are_looked_at(seed: int) -> None:
    random = np.random.default_rng(seed)
    cohorts: list[CohortCounts] = []
    for hour in range(48):
        # The shadow is wrong in 10 % more, where 5 % are allowed.
        excesses = np.where(random.random(100) < 0.1, 1.0, 0.0)
        until = NOW + timedelta(hours=hour)
        counts = tuple(SYM64.counts((1 + excesses) / 2).tolist())
        cohorts.append(CohortCounts(round(until.timestamp() * 1e9), 100, 100, counts, counts))
        assert decision(tally(*cohorts), now=until + timedelta(hours=1)) != "promote"
    assert decision(tally(*cohorts), now=NOW + timedelta(days=4)) == "reject"
