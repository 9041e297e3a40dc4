from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gnomon_server.control.comparison import Comparison, Outcomes, Pair, merged
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.ledger import CLOSED_EPOCHS, Ledger
from gnomon_server.control.sources import KEPT
from gnomon_server.control.verdict import verdict
from gnomon_server.settings import Policy
from gnomon_server.wire.counts import FeedCount, SourceCount
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, DURATION_BOUNDS, Histogram, empty
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.tallies import MetricCounts, Observed, OutputTally, PairTally, Serial

replace_struct = msgspec.structs.replace
KINDS = ("compared", "shadow_error", "timeout", "dropped", "not_comparable")
PAIR = Pair("churn", 1, 2)
START = datetime(2026, 1, 1, tzinfo=UTC)


def feed(
    source: str, selected: int, dropped: int = 0, primary_error: int = 0, epoch: str = "e1", pair: Pair = PAIR
) -> tuple[FeedCount]:
    return (FeedCount(pair.model, pair.primary, pair.shadow, epoch, source, selected, dropped, primary_error),)


def told(
    received: Mapping[str, int],
    ended: tuple[str, ...] = (),
    *,
    epoch: str = "e1",
    pair: Pair = PAIR,
    outputs: tuple[OutputTally, ...] = (),
    **counts: int,
) -> WorkerReport:
    """What a worker says that has received so much of each source, and settled it so."""
    sources = (SourceCount(pair.model, pair.primary, pair.shadow, *count) for count in received.items())
    return WorkerReport(epoch, (found(pair, counts, outputs),), tuple(sources), ended, 0, (), 0)


def found(pair: Pair, counts: Mapping[str, int], outputs: tuple[OutputTally, ...] = ()) -> PairTally:
    compared = counts.get("compared", 0)
    runs = Histogram(DURATION_BOUNDS)
    runs.add(0.002, compared)
    return PairTally(
        model=pair.model,
        primary=pair.primary,
        shadow=pair.shadow,
        compared=compared,
        shadow_error=counts.get("shadow_error", 0),
        timeout=counts.get("timeout", 0),
        dropped=counts.get("dropped", 0),
        not_comparable=counts.get("not_comparable", 0),
        agreement_sum=compared / 2,
        disagreeing=compared,
        outputs=outputs,
        shadow_runs=runs.snapshot(),
        primary_runs=runs.snapshot(),
        observed=Observed("basis", requests=sum(counts.values())),
    )


def output(name: str, rows: int, worst: float, tolerance: float = 0.01) -> OutputTally:
    divergences = Histogram(DIVERGENCE_BOUNDS)
    divergences.add(worst, rows)
    return OutputTally(name, "probabilities", tolerance, rows, rows // 2, worst * rows, worst, divergences.snapshot())


def outcomes(ledger: Ledger, pair: Pair = PAIR) -> Outcomes:
    return ledger.totals(pair).outcomes


def test_nothing_is_known_of_a_pair_that_was_never_selected() -> None:
    assert Ledger().totals(PAIR) == Comparison(PAIR)
    assert Ledger().comparisons() == ()


def test_what_is_selected_and_not_settled_is_pending() -> None:
    ledger = Ledger()
    ledger.frontend_reported(feed("a", 10, dropped=2, primary_error=1))
    ledger.frontend_reported(feed("b", 5))
    ledger.worker_reported(told({"a": 5}, compared=4, timeout=1))
    expected = Outcomes(compared=4, timeout=1, dropped=2, primary_error=1, pending=7)
    assert outcomes(ledger) == expected
    assert expected.selected == 15


def test_a_worker_that_reports_before_the_frontend_does_is_believed() -> None:
    ledger = Ledger()
    ledger.worker_reported(told({"a": 4}, compared=4))
    assert outcomes(ledger) == Outcomes(compared=4)
    ledger.frontend_reported(feed("a", 6))
    assert outcomes(ledger) == Outcomes(compared=4, pending=2)


def test_repeated_and_overtaken_reports_change_nothing() -> None:
    ledger = Ledger()
    for count in (feed("a", 10, dropped=3), feed("a", 10, dropped=3), feed("a", 4, dropped=1)):
        ledger.frontend_reported(count)
    for settled in (5, 2, 5):
        ledger.worker_reported(told({"a": settled}, compared=settled))
    assert outcomes(ledger) == Outcomes(compared=5, dropped=3, pending=2)


def test_two_feeds_of_one_frontend_to_the_same_worker_add_up() -> None:
    ledger = Ledger()
    ledger.frontend_reported((*feed("a", 10, dropped=3), *feed("b", 5, primary_error=1)))
    assert outcomes(ledger) == Outcomes(dropped=3, primary_error=1, pending=11)


def test_what_a_dead_worker_had_not_settled_is_dropped() -> None:
    ledger = Ledger()
    ledger.frontend_reported(feed("a", 10))
    ledger.worker_reported(told({"a": 4}, compared=4))
    ledger.epoch_ended("e1")
    assert outcomes(ledger) == Outcomes(compared=4, dropped=6)
    ledger.epoch_ended("e1")
    ledger.worker_reported(told({"a": 9}, compared=9))
    assert outcomes(ledger) == Outcomes(compared=4, dropped=6)


def test_late_reports_about_a_dead_worker_only_add_to_dropped() -> None:
    ledger = Ledger()
    ledger.frontend_reported(feed("a", 10))
    ledger.worker_reported(told({"a": 4}, compared=4))
    ledger.epoch_ended("e1")
    ledger.frontend_reported(feed("a", 13, dropped=3, primary_error=2))
    ledger.frontend_reported(feed("b", 2, dropped=2))
    assert outcomes(ledger) == Outcomes(compared=4, dropped=11)
    ledger.frontend_reported(feed("b", 3, dropped=3))
    assert outcomes(ledger) == Outcomes(compared=4, dropped=12)


def test_a_late_report_is_not_counted_twice_where_the_worker_was_ahead_of_it() -> None:
    ledger = Ledger()
    ledger.worker_reported(told({"a": 8}, compared=8))
    ledger.epoch_ended("e1")
    ledger.frontend_reported(feed("a", 8))
    assert outcomes(ledger) == Outcomes(compared=8)


def test_what_is_first_heard_of_a_worker_after_its_death_is_dropped() -> None:
    ledger = Ledger()
    ledger.epoch_ended("e1")
    ledger.frontend_reported(feed("a", 3))
    assert outcomes(ledger) == Outcomes(dropped=3)


def test_what_the_worker_never_received_of_a_source_is_dropped_once_it_has_read_it_to_its_end() -> None:
    ledger = Ledger()
    ledger.frontend_reported((*feed("dead", 10, dropped=1, primary_error=2), *feed("alive", 5)))
    ledger.worker_reported(told({"dead": 4, "alive": 2}, compared=3))
    assert outcomes(ledger) == Outcomes(compared=3, dropped=1, primary_error=2, pending=9)
    ledger.worker_reported(told({"dead": 4, "alive": 2}, ("dead",), compared=3))
    assert outcomes(ledger) == Outcomes(compared=3, dropped=4, primary_error=2, pending=6)
    # The worker says so once; what it still has of the source is settled as ever.
    ledger.worker_reported(told({"alive": 5}, compared=9))
    assert outcomes(ledger) == Outcomes(compared=9, dropped=4, primary_error=2)
    ledger.epoch_ended("e1")
    assert outcomes(ledger) == Outcomes(compared=9, dropped=4, primary_error=2)


def test_what_a_frontend_says_late_of_a_source_that_has_ended_is_dropped() -> None:
    ledger = Ledger()
    ledger.worker_reported(told({"a": 4}, ("a", "b"), compared=4))
    assert outcomes(ledger) == Outcomes(compared=4)
    ledger.frontend_reported((*feed("a", 10, primary_error=1), *feed("b", 3)))
    assert outcomes(ledger) == Outcomes(compared=4, primary_error=1, dropped=8)
    ledger.epoch_ended("e1")
    ledger.frontend_reported(feed("a", 12, primary_error=1))
    assert outcomes(ledger) == Outcomes(compared=4, primary_error=1, dropped=10)


def test_what_the_worker_received_of_a_frontend_that_never_spoke_hides_nothing_of_another_one() -> None:
    ledger = Ledger()
    ledger.worker_reported(told({"silent": 5}, ("silent",), compared=5))
    ledger.frontend_reported(feed("a", 10))
    assert outcomes(ledger) == Outcomes(compared=5, pending=10)
    ledger.epoch_ended("e1")
    assert outcomes(ledger) == Outcomes(compared=5, dropped=10)


def test_an_older_report_of_the_worker_does_not_revive_a_source_that_has_ended() -> None:
    ledger = Ledger()
    ledger.frontend_reported(feed("a", 10))
    older = told({"a": 2}, compared=2)
    ledger.worker_reported(told({"a": 4}, ("a",), compared=4))
    ledger.worker_reported(older)
    assert outcomes(ledger) == Outcomes(compared=4, dropped=6)


def test_a_frontend_that_crashes_for_ever_does_not_fill_the_memory() -> None:
    ledger = Ledger()
    for life in range(2 * KEPT):
        ledger.frontend_reported(feed(f"a{life}", 3, primary_error=1))
        ledger.worker_reported(told({f"a{life}": 1, "alive": life + 1}, (f"a{life}",), compared=2 * life + 2))
        ledger.frontend_reported(feed("alive", life + 2))
    assert outcomes(ledger) == Outcomes(compared=4 * KEPT, primary_error=2 * KEPT, dropped=2 * KEPT, pending=1)
    assert len(ledger._live["e1"].sources._kept) == KEPT


def test_a_new_life_of_the_worker_begins_its_own_counts() -> None:
    ledger = Ledger()
    ledger.frontend_reported(feed("a", 10))
    ledger.worker_reported(told({"a": 4}, compared=4))
    ledger.epoch_ended("e1")
    ledger.frontend_reported((*feed("a", 10), *feed("b", 3, epoch="e2")))
    ledger.worker_reported(told({"b": 2}, epoch="e2", compared=2))
    assert outcomes(ledger) == Outcomes(compared=6, dropped=6, pending=1)


def test_a_worker_that_crashes_for_ever_does_not_fill_the_memory() -> None:
    ledger = Ledger()
    for life in range(2 * CLOSED_EPOCHS):
        ledger.frontend_reported(feed("a", 1, epoch=f"e{life}"))
        ledger.epoch_ended(f"e{life}")
    assert outcomes(ledger) == Outcomes(dropped=2 * CLOSED_EPOCHS)
    assert len(ledger._closed) == CLOSED_EPOCHS


def test_a_dead_worker_that_frontends_still_feed_is_not_forgotten_for_younger_ones() -> None:
    ledger = Ledger()
    ledger.frontend_reported(feed("a", 10, epoch="e0"))
    ledger.epoch_ended("e0")
    for life in range(1, 2 * CLOSED_EPOCHS):
        ledger.epoch_ended(f"e{life}")
        ledger.frontend_reported(feed("a", 10 + life, dropped=life, epoch="e0"))
    assert outcomes(ledger) == Outcomes(dropped=9 + 2 * CLOSED_EPOCHS)


def test_a_comparison_begins_with_its_first_selected_request() -> None:
    now = START
    ledger = Ledger(lambda: now)
    ledger.frontend_reported(feed("a", 0))
    now += timedelta(seconds=1)
    ledger.frontend_reported(feed("a", 1))
    now += timedelta(seconds=1)
    ledger.epoch_ended("e1")
    ledger.frontend_reported((*feed("a", 2), *feed("b", 1, epoch="e2")))
    assert ledger.totals(PAIR).since == START + timedelta(seconds=1)


def test_a_restored_ledger_counts_what_was_pending_as_dropped_and_goes_on() -> None:
    ledger = Ledger(lambda: START)
    ledger.frontend_reported(feed("a", 10, primary_error=1))
    ledger.worker_reported(told({"a": 4}, compared=4, outputs=(output("p", 8, 0.5),)))
    restored = Ledger.restore(ledger.comparisons())
    assert outcomes(restored) == Outcomes(compared=4, primary_error=1, dropped=5)
    restored.frontend_reported(feed("a", 2, epoch="e2"))
    restored.worker_reported(told({"a": 2}, epoch="e2", compared=2, outputs=(output("p", 4, 0.25),)))
    total = restored.totals(PAIR)
    assert total.outcomes == Outcomes(compared=6, primary_error=1, dropped=5)
    assert (total.since, total.agreement_sum, total.disagreeing) == (START, 3.0, 6)
    assert (total.outputs[0].rows, total.outputs[0].divergence_max, total.outputs[0].divergence_sum) == (12, 0.5, 5.0)
    assert sum(total.shadow_runs.counts) == sum(total.primary_runs.counts) == 6


def test_what_a_dead_worker_had_seen_and_not_accounted_for_is_lost_to_the_evidence() -> None:
    ledger = Ledger(lambda: START)
    ledger.frontend_reported(feed("a", 20, dropped=3, primary_error=2))
    report = told({"a": 12}, compared=11)
    (tally,) = report.pairs
    # Two of them are in a block that was not finished.
    unfinished = replace_struct(tally, observed=Observed("basis", requests=9))
    ledger.worker_reported(replace_struct(report, pairs=(unfinished,)))
    evidence = ledger.totals(PAIR).evidence
    assert (evidence.observed.requests, evidence.lost, evidence.open, evidence.primary_errors) == (9, 3, 6, 2)
    ledger.epoch_ended("e1")
    assert outcomes(ledger) == Outcomes(compared=11, dropped=7, primary_error=2)
    evidence = ledger.totals(PAIR).evidence
    assert (evidence.observed.requests, evidence.lost, evidence.open, evidence.primary_errors) == (9, 9, 0, 2)
    assert Ledger.restore(ledger.comparisons()).totals(PAIR).evidence == evidence


def test_observations_on_another_basis_begin_anew() -> None:
    now = START
    ledger = Ledger(lambda: now)
    for epoch, basis in (("e1", "old"), ("e2", "new")):
        report = told({epoch: 5}, epoch=epoch, compared=5)
        tally = replace_struct(report.pairs[0], observed=Observed(basis, requests=5))
        ledger.frontend_reported(feed(epoch, 6, epoch=epoch))
        ledger.worker_reported(replace_struct(report, pairs=(tally,)))
        ledger.epoch_ended(epoch)
        now += timedelta(seconds=1)
    total = ledger.totals(PAIR)
    assert total.outcomes == Outcomes(compared=10, dropped=2)
    assert total.evidence == Evidence(Observed("new", requests=5), lost=1, since=START + timedelta(seconds=1))


def test_the_first_decision_is_kept_and_survives_a_restart() -> None:
    ledger = Ledger(lambda: START)
    ledger.frontend_reported(feed("a", 6))
    found = verdict(ledger.totals(PAIR).evidence, Policy(), START)
    ledger.decide(PAIR, found)
    assert ledger.totals(PAIR).decided == found
    assert Ledger.restore(ledger.comparisons()).totals(PAIR).decided == found


def test_of_two_replicas_decisions_the_earlier_stands_unless_it_is_by_another_policy() -> None:
    def decided(policy: Policy, hours: int) -> Comparison:
        return Comparison(PAIR, decided=verdict(Evidence(), policy, START + timedelta(hours=hours)))

    early, late, other = decided(Policy(), 1), decided(Policy(), 2), decided(Policy(tolerance=0.02), 3)
    assert early.plus(late).decided == late.plus(early).decided == early.decided
    assert early.plus(other).decided == other.plus(early).decided == other.decided
    assert early.plus(Comparison(PAIR)).decided == Comparison(PAIR).plus(early).decided == early.decided


COUNTS = st.lists(st.floats(0, 9), min_size=2, max_size=2).map(tuple)
PARTS = st.builds(
    Evidence,
    observed=st.one_of(
        st.just(Observed()),
        st.builds(
            Observed,
            basis=st.just("basis"),
            requests=st.integers(0, 9),
            repeated=st.integers(0, 9),
            serial=st.builds(Serial, blocks=st.integers(0, 9), pairs=st.integers(0, 9)),
            metrics=st.lists(
                st.builds(MetricCounts, st.sampled_from("ab"), COUNTS, COUNTS), max_size=2, unique_by=lambda m: m.name
            ).map(tuple),
        ),
    ),
    lost=st.integers(0, 9),
    open=st.integers(0, 9),
    since=st.one_of(st.none(), st.integers(0, 9).map(lambda hours: START + timedelta(hours=hours))),
)


@given(PARTS, PARTS, PARTS)
def test_the_order_in_which_evidence_is_added_does_not_matter(one: Evidence, two: Evidence, three: Evidence) -> None:
    forwards, backwards = one.plus(two).plus(three), three.plus(two.plus(one))
    assert replace(forwards, observed=Observed()) == replace(backwards, observed=Observed())
    assert replace_struct(forwards.observed, metrics=()) == replace_struct(backwards.observed, metrics=())
    found, same = ({m.name: m for m in side.observed.metrics} for side in (forwards, backwards))
    assert found.keys() == same.keys()
    for name, counts in found.items():
        assert counts.up == pytest.approx(same[name].up)
        assert counts.lo == pytest.approx(same[name].lo)


def test_pairs_are_kept_apart() -> None:
    ledger, other = Ledger(), Pair("churn", 2, 3)
    ledger.frontend_reported((*feed("a", 3), *feed("b", 5, pair=other)))
    ledger.worker_reported(told({"a": 1}, compared=1))
    ledger.worker_reported(told({"b": 2}, pair=other, timeout=2))
    assert outcomes(ledger) == Outcomes(compared=1, pending=2)
    assert outcomes(ledger, other) == Outcomes(timeout=2, pending=3)
    assert [comparison.pair for comparison in ledger.comparisons()] == [PAIR, other]


def test_rows_judged_by_different_tolerances_stay_apart() -> None:
    one, same, other = output("p", 4, 0.1), output("p", 2, 0.3), output("p", 1, 0.2, tolerance=0.5)
    sums = merged((one, other, same))
    assert [(part.tolerance, part.rows, part.disagreements) for part in sums] == [(0.01, 6, 3), (0.5, 1, 0)]
    assert sums[0].histogram.total == one.histogram.total + same.histogram.total
    assert merged(()) == ()
    assert empty(DIVERGENCE_BOUNDS).total == 0.0


PAIRS = (PAIR, Pair("churn", 3, 2))


@dataclass
class Fed:
    selected: int = 0
    dropped: int = 0
    primary_error: int = 0


@dataclass
class FeedProcess:
    """A frontend's feed as it really is."""

    epoch: str
    fed: dict[Pair, Fed] = field(default_factory=lambda: {pair: Fed() for pair in PAIRS})
    # Handed over, and neither received by the worker nor lost yet.
    unsent: dict[Pair, int] = field(default_factory=lambda: dict.fromkeys(PAIRS, 0))
    over: bool = False

    def end(self) -> None:
        """Closes it, or kills its frontend: what it has not sent is lost."""
        self.over = True
        self.unsent = dict.fromkeys(PAIRS, 0)


@dataclass
class WorkerProcess:
    """A shadow worker as it really is."""

    waiting: dict[Pair, int] = field(default_factory=lambda: dict.fromkeys(PAIRS, 0))
    settled: dict[Pair, dict[str, int]] = field(
        default_factory=lambda: {pair: dict.fromkeys(KINDS, 0) for pair in PAIRS}
    )
    received: dict[tuple[str, Pair], int] = field(default_factory=dict)
    # Sources that were read to their end, and those of them that were reported so.
    ended: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)

    @property
    def busy(self) -> bool:
        return any(count for counts in self.settled.values() for count in counts.values())

    def receive(self, source: str, pair: Pair, count: int) -> None:
        self.waiting[pair] += count
        self.received[source, pair] = self.received.get((source, pair), 0) + count

    def settle(self, pair: Pair, kind: str) -> None:
        self.waiting[pair] -= 1
        self.settled[pair][kind] += 1

    def report(self, epoch: str) -> WorkerReport:
        sources = tuple(
            SourceCount(pair.model, pair.primary, pair.shadow, source, count)
            for (source, pair), count in self.received.items()
            if source not in self.forgotten
        )
        tallies = tuple(found(pair, self.settled[pair]) for pair in PAIRS)
        return WorkerReport(epoch, tallies, sources, tuple(self.ended - self.forgotten), 0, (), 0)


@dataclass
class Told:
    """What has been said of one pair's requests of one source in one epoch."""

    fed: Fed = field(default_factory=Fed)
    received: int = 0

    @property
    def selected(self) -> int:
        """Requests that must count as selected."""
        others = self.fed.dropped + self.fed.primary_error
        return max(self.fed.selected, self.received + others)


class Mirroring(RuleBasedStateMachine):
    """Frontends select, a worker settles, both die, and reports are late, lost, repeated and in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(lambda: START)
        self.lives = 0
        # Every feed there ever was, by its source; and the source of each living frontend's open feed.
        self.feeds: dict[str, FeedProcess] = {}
        self.frontends: dict[str, list[str]] = {}
        # What was known of epochs when they ended, but for dropped requests: those are the rest.
        self.buried = dict.fromkeys(PAIRS, Outcomes())
        self.seen = dict.fromkeys(PAIRS, Outcomes())
        self.told: dict[tuple[str, Pair], Told] = {}
        # Reports that may arrive at any time, several times or never.
        self.under_way: list[Callable[[], None]] = []
        self.begin_epoch()
        self.start_a_frontend()

    def life(self, kind: str) -> str:
        self.lives += 1
        return f"{kind}-{self.lives}"

    def begin_epoch(self) -> None:
        self.epoch, self.worker = self.life("epoch"), WorkerProcess()
        self.told_settled = {pair: dict.fromkeys(KINDS, 0) for pair in PAIRS}
        self.told_errors: dict[tuple[str, Pair], int] = {}

    @precondition(lambda self: len(self.frontends) < 2)
    @rule()
    def a_frontend_starts(self) -> None:
        self.start_a_frontend()

    def start_a_frontend(self) -> None:
        self.frontends[self.life("frontend")] = [self.open_a_feed()]

    def open_a_feed(self) -> str:
        source = self.life("source")
        self.feeds[source] = FeedProcess(self.epoch)
        return source

    def some_frontend(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.frontends)))

    @rule(data=st.data())
    def requests_come_and_some_are_received_and_some_settled(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(PAIRS))
        handed, dropped, failed = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2)))
        source = self.frontends[self.some_frontend(data)][-1]
        feed = self.feeds[source]
        fed = feed.fed[pair]
        fed.selected += handed + dropped + failed
        fed.dropped += dropped
        fed.primary_error += failed
        if feed.epoch == self.epoch:
            feed.unsent[pair] += handed
            sent = data.draw(st.integers(0, feed.unsent[pair]))
            feed.unsent[pair] -= sent
            self.worker.receive(source, pair, sent)
        for kind in data.draw(st.lists(st.sampled_from(KINDS), max_size=self.worker.waiting[pair])):
            self.worker.settle(pair, kind)

    # Reports come after news, or most of what is tried would be reports that say nothing.
    @rule(data=st.data(), arrives=st.booleans())
    def a_frontend_reports(self, data: st.DataObject, arrives: bool) -> None:
        self.requests_come_and_some_are_received_and_some_settled(data)
        self.under_way.append(partial(self.hear_frontend, self.frontend_report(self.some_frontend(data))))
        if arrives:
            self.under_way[-1]()

    @rule(data=st.data(), arrives=st.booleans(), reads_on=st.booleans())
    def the_worker_reports(self, data: st.DataObject, arrives: bool, reads_on: bool) -> None:
        self.requests_come_and_some_are_received_and_some_settled(data)
        if reads_on:
            self.the_worker_reads_to_the_ends()
        report = self.worker.report(self.epoch)
        self.under_way.append(partial(self.hear_worker, report))
        if arrives:
            self.under_way[-1]()
            self.worker.forgotten.update(report.ended)

    def the_worker_reads_to_the_ends(self) -> None:
        self.worker.ended |= {source for source, feed in self.feeds.items() if feed.over and feed.epoch == self.epoch}

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def an_older_report_arrives_perhaps_again(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.under_way))()

    # A worker that has done something dies in a more interesting way.
    @precondition(lambda self: self.worker.busy)
    @rule()
    def the_worker_dies(self) -> None:
        self.ledger.epoch_ended(self.epoch)
        self.bury()
        self.begin_epoch()

    @precondition(lambda self: any(self.worker.waiting.values()))
    @rule()
    def the_server_restarts_after_a_flush(self) -> None:
        self.everything_is_reported()
        self.bury()
        # The channels end with the server.
        self.frontends, self.under_way = {}, []
        self.ledger = Ledger.restore(self.ledger.comparisons())
        self.begin_epoch()
        self.start_a_frontend()

    @rule(data=st.data())
    def a_frontend_closes_its_feed_for_another_one(self, data: st.DataObject) -> None:
        sources = self.frontends[self.some_frontend(data)]
        self.feeds[sources[-1]].end()
        sources.append(self.open_a_feed())

    @precondition(lambda self: len(self.frontends) > 1)
    @rule(data=st.data(), reports=st.booleans())
    def a_frontend_dies_perhaps_without_a_last_report(self, data: st.DataObject, reports: bool) -> None:
        name = self.some_frontend(data)
        if reports:
            self.hear_frontend(self.frontend_report(name))
        self.feeds[self.frontends.pop(name)[-1]].end()

    @rule()
    def everything_is_reported(self) -> None:
        for name in self.frontends:
            self.hear_frontend(self.frontend_report(name))
        self.the_worker_reads_to_the_ends()
        self.hear_worker(self.worker.report(self.epoch))
        self.worker.forgotten |= self.worker.ended
        for pair in PAIRS:
            assert self.ledger.totals(pair).outcomes == self.truth(pair)

    @rule(data=st.data())
    def everything_comes_to_rest(self, data: st.DataObject) -> None:
        for source, feed in self.feeds.items():
            for pair in PAIRS if feed.epoch == self.epoch else ():
                self.worker.receive(source, pair, feed.unsent[pair])
                feed.unsent[pair] = 0
        for pair in PAIRS:
            while self.worker.waiting[pair]:
                self.worker.settle(pair, data.draw(st.sampled_from(KINDS)))
        self.everything_is_reported()
        assert all(self.ledger.totals(pair).outcomes.pending == 0 for pair in PAIRS)

    @invariant()
    def no_request_is_lost_or_invented_and_no_outcome_taken_back(self) -> None:
        for pair in PAIRS:
            now, before = self.ledger.totals(pair).outcomes, self.seen[pair]
            counts = vars(now)
            assert min(counts.values()) >= 0
            assert now.selected == sum(counts.values())
            assert all(counts[kind] >= vars(before)[kind] for kind in (*KINDS, "primary_error"))
            assert now.selected >= before.selected
            assert now.selected == sum(told.selected for (_, of), told in self.told.items() if of == pair)
            assert now.selected <= sum(feed.fed[pair].selected for feed in self.feeds.values())
            self.seen[pair] = now

    @invariant()
    def the_evidence_accounts_for_every_request(self) -> None:
        for pair in PAIRS:
            total = self.ledger.totals(pair)
            evidence, outcomes = total.evidence, total.outcomes
            observed = evidence.observed.requests
            assert (evidence.open, evidence.primary_errors) == (outcomes.pending, outcomes.primary_error)
            assert outcomes.selected == observed + evidence.lost + evidence.open + evidence.primary_errors

    def frontend_report(self, name: str) -> tuple[FeedCount, ...]:
        return tuple(
            FeedCount(
                *(pair.model, pair.primary, pair.shadow, self.feeds[source].epoch, source),
                *(fed.selected, fed.dropped, fed.primary_error),
            )
            for source in self.frontends[name]
            for pair, fed in self.feeds[source].fed.items()
        )

    def hear_frontend(self, counts: tuple[FeedCount, ...]) -> None:
        self.ledger.frontend_reported(counts)
        for count in counts:
            key = (count.source, Pair(count.model, count.primary, count.shadow))
            fed = self.told.setdefault(key, Told()).fed
            if count.selected > fed.selected:
                fed.selected, fed.dropped, fed.primary_error = count.selected, count.dropped, count.primary_error
            if count.epoch == self.epoch:
                self.told_errors[key] = fed.primary_error

    def hear_worker(self, report: WorkerReport) -> None:
        self.ledger.worker_reported(report)
        if report.epoch == self.epoch:
            for count in report.sources:
                told = self.told.setdefault((count.source, Pair(count.model, count.primary, count.shadow)), Told())
                told.received = max(told.received, count.received)
            for tally in report.pairs:
                settled = self.told_settled[Pair(tally.model, tally.primary, tally.shadow)]
                settled.update({kind: max(settled[kind], getattr(tally, kind)) for kind in KINDS})

    def bury(self) -> None:
        for pair in PAIRS:
            told = replace(Outcomes(**self.told_settled[pair]), dropped=0, primary_error=self.errors(pair))
            self.buried[pair] = self.buried[pair].plus(told)

    def errors(self, pair: Pair) -> int:
        return sum(count for (_, of), count in self.told_errors.items() if of == pair)

    def truth(self, pair: Pair) -> Outcomes:
        """What the ledger must say once everything was reported that ever will be."""
        under_way = sum(feed.unsent[pair] for feed in self.feeds.values() if feed.epoch == self.epoch)
        living = Outcomes(**self.worker.settled[pair], primary_error=self.errors(pair))
        living = replace(living, dropped=0, pending=self.worker.waiting[pair] + under_way)
        known = self.buried[pair].plus(living)
        selected = sum(told.selected for (_, of), told in self.told.items() if of == pair)
        return replace(known, dropped=selected - known.selected)


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(max_examples=100, stateful_step_count=50)
