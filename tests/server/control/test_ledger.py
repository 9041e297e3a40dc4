from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gnomon_server.control.comparison import Comparison, Outcomes, Pair, merged
from gnomon_server.control.ledger import CLOSED_EPOCHS, Ledger
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, DURATION_BOUNDS, Histogram, empty
from gnomon_server.wire.messages import FeedCount, OutputTally, PairTally

KINDS = ("compared", "shadow_error", "timeout", "dropped", "not_comparable")
PAIR = Pair("churn", 1, 2)
START = datetime(2026, 1, 1, tzinfo=UTC)


def feed(
    selected: int, dropped: int = 0, primary_error: int = 0, epoch: str = "e1", pair: Pair = PAIR
) -> tuple[FeedCount]:
    return (FeedCount(pair.model, pair.primary, pair.shadow, epoch, selected, dropped, primary_error),)


def tally(pair: Pair = PAIR, outputs: tuple[OutputTally, ...] = (), **counts: int) -> tuple[PairTally]:
    return (found(pair, counts, outputs),)


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
    ledger.frontend_reported("a", feed(10, dropped=2, primary_error=1))
    ledger.frontend_reported("b", feed(5))
    ledger.worker_reported("e1", tally(compared=4, timeout=1))
    expected = Outcomes(compared=4, timeout=1, dropped=2, primary_error=1, pending=7)
    assert outcomes(ledger) == expected
    assert expected.selected == 15


def test_a_worker_that_reports_before_the_frontend_does_is_believed() -> None:
    ledger = Ledger()
    ledger.worker_reported("e1", tally(compared=4))
    assert outcomes(ledger) == Outcomes(compared=4)
    ledger.frontend_reported("a", feed(6))
    assert outcomes(ledger) == Outcomes(compared=4, pending=2)


def test_repeated_and_overtaken_reports_change_nothing() -> None:
    ledger = Ledger()
    for count in (feed(10, dropped=3), feed(10, dropped=3), feed(4, dropped=1)):
        ledger.frontend_reported("a", count)
    for settled in (5, 2, 5):
        ledger.worker_reported("e1", tally(compared=settled))
    assert outcomes(ledger) == Outcomes(compared=5, dropped=3, pending=2)


def test_two_feeds_of_one_frontend_to_the_same_worker_add_up() -> None:
    ledger = Ledger()
    ledger.frontend_reported("a", (*feed(10, dropped=3), *feed(5, primary_error=1)))
    assert outcomes(ledger) == Outcomes(dropped=3, primary_error=1, pending=11)


def test_what_a_dead_worker_had_not_settled_is_dropped() -> None:
    ledger = Ledger()
    ledger.frontend_reported("a", feed(10))
    ledger.worker_reported("e1", tally(compared=4))
    ledger.epoch_ended("e1")
    assert outcomes(ledger) == Outcomes(compared=4, dropped=6)
    ledger.epoch_ended("e1")
    ledger.worker_reported("e1", tally(compared=9))
    assert outcomes(ledger) == Outcomes(compared=4, dropped=6)


def test_late_reports_about_a_dead_worker_only_add_to_dropped() -> None:
    ledger = Ledger()
    ledger.frontend_reported("a", feed(10))
    ledger.worker_reported("e1", tally(compared=4))
    ledger.epoch_ended("e1")
    ledger.frontend_reported("a", feed(13, dropped=3, primary_error=2))
    ledger.frontend_reported("b", feed(2, dropped=2))
    assert outcomes(ledger) == Outcomes(compared=4, dropped=11)
    ledger.frontend_ended("a")
    ledger.frontend_reported("b", feed(3, dropped=3))
    assert outcomes(ledger) == Outcomes(compared=4, dropped=12)


def test_a_late_report_is_not_counted_twice_where_the_worker_was_ahead_of_it() -> None:
    ledger = Ledger()
    ledger.worker_reported("e1", tally(compared=8))
    ledger.epoch_ended("e1")
    ledger.frontend_reported("a", feed(8))
    assert outcomes(ledger) == Outcomes(compared=8)


def test_what_is_first_heard_of_a_worker_after_its_death_is_dropped() -> None:
    ledger = Ledger()
    ledger.epoch_ended("e1")
    ledger.frontend_reported("a", feed(3))
    assert outcomes(ledger) == Outcomes(dropped=3)


def test_the_counts_of_a_dead_frontend_remain() -> None:
    ledger = Ledger()
    ledger.frontend_reported("a/1", feed(10, dropped=1))
    ledger.frontend_ended("a/1")
    ledger.frontend_reported("a/2", feed(5, dropped=1))
    ledger.worker_reported("e1", tally(compared=12))
    assert outcomes(ledger) == Outcomes(compared=12, dropped=2, pending=1)


def test_a_new_life_of_the_worker_begins_its_own_counts() -> None:
    ledger = Ledger()
    ledger.frontend_reported("a", feed(10))
    ledger.worker_reported("e1", tally(compared=4))
    ledger.epoch_ended("e1")
    ledger.frontend_reported("a", (*feed(10), *feed(3, epoch="e2")))
    ledger.worker_reported("e2", tally(compared=2))
    assert outcomes(ledger) == Outcomes(compared=6, dropped=6, pending=1)


def test_a_worker_that_crashes_for_ever_does_not_fill_the_memory() -> None:
    ledger = Ledger()
    for life in range(2 * CLOSED_EPOCHS):
        ledger.frontend_reported("a", feed(1, epoch=f"e{life}"))
        ledger.epoch_ended(f"e{life}")
    assert outcomes(ledger) == Outcomes(dropped=2 * CLOSED_EPOCHS)
    assert len(ledger._closed) == CLOSED_EPOCHS


def test_a_dead_worker_that_frontends_still_feed_is_not_forgotten_for_younger_ones() -> None:
    ledger = Ledger()
    ledger.frontend_reported("a", feed(10, epoch="e0"))
    ledger.epoch_ended("e0")
    for life in range(1, 2 * CLOSED_EPOCHS):
        ledger.epoch_ended(f"e{life}")
        ledger.frontend_reported("a", feed(10 + life, dropped=life, epoch="e0"))
    assert outcomes(ledger) == Outcomes(dropped=9 + 2 * CLOSED_EPOCHS)


def test_a_comparison_begins_with_its_first_selected_request() -> None:
    now = START
    ledger = Ledger(lambda: now)
    ledger.frontend_reported("a", feed(0))
    now += timedelta(seconds=1)
    ledger.frontend_reported("a", feed(1))
    now += timedelta(seconds=1)
    ledger.epoch_ended("e1")
    ledger.frontend_reported("a", (*feed(2), *feed(1, epoch="e2")))
    assert ledger.totals(PAIR).since == START + timedelta(seconds=1)


def test_a_restored_ledger_counts_what_was_pending_as_dropped_and_goes_on() -> None:
    ledger = Ledger(lambda: START)
    ledger.frontend_reported("a", feed(10, primary_error=1))
    ledger.worker_reported("e1", tally(compared=4, outputs=(output("p", 8, 0.5),)))
    restored = Ledger.restore(ledger.comparisons())
    assert outcomes(restored) == Outcomes(compared=4, primary_error=1, dropped=5)
    restored.frontend_reported("a", feed(2, epoch="e2"))
    restored.worker_reported("e2", tally(compared=2, outputs=(output("p", 4, 0.25),)))
    total = restored.totals(PAIR)
    assert total.outcomes == Outcomes(compared=6, primary_error=1, dropped=5)
    assert (total.since, total.agreement_sum, total.disagreeing) == (START, 3.0, 6)
    assert (total.outputs[0].rows, total.outputs[0].divergence_max, total.outputs[0].divergence_sum) == (12, 0.5, 5.0)
    assert sum(total.shadow_runs.counts) == sum(total.primary_runs.counts) == 6


def test_pairs_are_kept_apart() -> None:
    ledger, other = Ledger(), Pair("churn", 2, 3)
    ledger.frontend_reported("a", (*feed(3), *feed(5, pair=other)))
    ledger.worker_reported("e1", (*tally(compared=1), *tally(timeout=2, pair=other)))
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
class FrontendProcess:
    """A frontend as it really is; it hands over to the worker of the plan that it has."""

    epoch: str
    fed: dict[tuple[str, Pair], Fed] = field(default_factory=dict)

    def report(self) -> tuple[FeedCount, ...]:
        return tuple(
            FeedCount(pair.model, pair.primary, pair.shadow, epoch, fed.selected, fed.dropped, fed.primary_error)
            for (epoch, pair), fed in self.fed.items()
        )


@dataclass
class WorkerProcess:
    """A shadow worker as it really is."""

    waiting: dict[Pair, int] = field(default_factory=lambda: dict.fromkeys(PAIRS, 0))
    settled: dict[Pair, dict[str, int]] = field(
        default_factory=lambda: {pair: dict.fromkeys(KINDS, 0) for pair in PAIRS}
    )

    @property
    def busy(self) -> bool:
        return any(count for counts in self.settled.values() for count in counts.values())

    def report(self) -> tuple[PairTally, ...]:
        return tuple(found(pair, self.settled[pair]) for pair in PAIRS)


class Mirroring(RuleBasedStateMachine):
    """Frontends select, a worker settles, both die, and reports are late, lost, repeated and in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(lambda: START)
        self.lives = 0
        self.frontends: dict[str, FrontendProcess] = {}
        self.departed: list[FrontendProcess] = []
        # What was known of epochs when they ended, but for dropped requests: those are the rest.
        self.buried = dict.fromkeys(PAIRS, Outcomes())
        self.seen = dict.fromkeys(PAIRS, Outcomes())
        # Reports that may arrive at any time, several times or never.
        self.under_way: list[Callable[[], None]] = []
        self.begin_epoch()
        self.start_a_frontend()

    def life(self, kind: str) -> str:
        self.lives += 1
        return f"{kind}-{self.lives}"

    def begin_epoch(self) -> None:
        self.epoch, self.worker = self.life("epoch"), WorkerProcess()
        self.told_errors: dict[tuple[str, Pair], int] = {}
        self.told_settled = {pair: dict.fromkeys(KINDS, 0) for pair in PAIRS}

    @precondition(lambda self: len(self.frontends) < 2)
    @rule()
    def a_frontend_starts(self) -> None:
        self.start_a_frontend()

    def start_a_frontend(self) -> None:
        self.frontends[self.life("frontend")] = FrontendProcess(self.epoch)

    @rule(data=st.data())
    def requests_come_and_some_are_settled(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(PAIRS))
        handed, dropped, failed = data.draw(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 2)))
        frontend = self.frontends[data.draw(st.sampled_from(sorted(self.frontends)))]
        fed = frontend.fed.setdefault((frontend.epoch, pair), Fed())
        fed.selected += handed + dropped + failed
        fed.dropped += dropped
        fed.primary_error += failed
        if frontend.epoch == self.epoch:
            self.worker.waiting[pair] += handed
        for kind in data.draw(st.lists(st.sampled_from(KINDS), max_size=self.worker.waiting[pair])):
            self.worker.waiting[pair] -= 1
            self.worker.settled[pair][kind] += 1

    # Reports come after news, or most of what is tried would be reports that say nothing.
    @rule(data=st.data(), arrives=st.booleans())
    def a_frontend_reports(self, data: st.DataObject, arrives: bool) -> None:
        self.requests_come_and_some_are_settled(data)
        name = data.draw(st.sampled_from(sorted(self.frontends)))
        self.under_way.append(partial(self.hear_frontend, name, self.frontends[name].report()))
        if arrives:
            self.under_way[-1]()

    @rule(data=st.data(), arrives=st.booleans())
    def the_worker_reports(self, data: st.DataObject, arrives: bool) -> None:
        self.requests_come_and_some_are_settled(data)
        self.under_way.append(partial(self.hear_worker, self.epoch, self.worker.report()))
        if arrives:
            self.under_way[-1]()

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
        self.departed += self.frontends.values()
        # The channels end with the server.
        self.frontends, self.under_way = {}, []
        self.ledger = Ledger.restore(self.ledger.comparisons())
        self.begin_epoch()
        self.start_a_frontend()

    @rule(data=st.data())
    def a_frontend_gets_the_plan(self, data: st.DataObject) -> None:
        self.frontends[data.draw(st.sampled_from(sorted(self.frontends)))].epoch = self.epoch

    @precondition(lambda self: len(self.frontends) > 1)
    @rule(data=st.data())
    def a_frontend_ends_after_its_last_report(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.frontends)))
        self.hear_frontend(name, self.frontends[name].report())
        self.ledger.frontend_ended(name)
        self.departed.append(self.frontends.pop(name))

    @rule()
    def everything_is_reported(self) -> None:
        for name, frontend in self.frontends.items():
            self.hear_frontend(name, frontend.report())
        self.hear_worker(self.epoch, self.worker.report())
        for pair in PAIRS:
            assert self.ledger.totals(pair).outcomes == self.truth(pair)

    @invariant()
    def no_request_is_lost_or_invented_and_no_outcome_taken_back(self) -> None:
        for pair in PAIRS:
            now, before = self.ledger.totals(pair).outcomes, self.seen[pair]
            counts = vars(now)
            assert min(counts.values()) >= 0
            assert now.selected == sum(counts.values())
            assert all(counts[kind] >= vars(before)[kind] for kind in (*KINDS, "primary_error"))
            assert now.selected >= before.selected
            assert now.selected <= self.really_selected(pair)
            self.seen[pair] = now

    def hear_frontend(self, name: str, counts: tuple[FeedCount, ...]) -> None:
        if name not in self.frontends:
            # A frontend's channel is read to its end before it counts as dead.
            return
        self.ledger.frontend_reported(name, counts)
        for count in counts:
            if count.epoch == self.epoch:
                key = (name, Pair(count.model, count.primary, count.shadow))
                self.told_errors[key] = max(self.told_errors.get(key, 0), count.primary_error)

    def hear_worker(self, epoch: str, tallies: tuple[PairTally, ...]) -> None:
        self.ledger.worker_reported(epoch, tallies)
        if epoch == self.epoch:
            for report in tallies:
                told = self.told_settled[Pair(report.model, report.primary, report.shadow)]
                told.update({kind: max(told[kind], getattr(report, kind)) for kind in KINDS})

    def bury(self) -> None:
        for pair in PAIRS:
            errors = sum(count for (_, of), count in self.told_errors.items() if of == pair)
            told = replace(Outcomes(**self.told_settled[pair]), dropped=0, primary_error=errors)
            self.buried[pair] = self.buried[pair].plus(told)

    def really_selected(self, pair: Pair) -> int:
        everyone = (*self.frontends.values(), *self.departed)
        return sum(fed.selected for process in everyone for (_, of), fed in process.fed.items() if of == pair)

    def truth(self, pair: Pair) -> Outcomes:
        everyone = (*self.frontends.values(), *self.departed)
        errors = sum(process.fed.get((self.epoch, pair), Fed()).primary_error for process in everyone)
        living = replace(Outcomes(**self.worker.settled[pair]), dropped=0, primary_error=errors)
        known = self.buried[pair].plus(replace(living, pending=self.worker.waiting[pair]))
        return replace(known, dropped=self.really_selected(pair) - known.selected)


TestMirroring = Mirroring.TestCase
TestMirroring.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
