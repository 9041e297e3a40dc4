"""The ledger: which requests were selected for a shadow and what became of each, exactly.

Children report cumulative counts, so a report that is lost, repeated or overtaken does no harm. Selected requests and
those received are reported by different processes, and one report can lag behind the other; a request that is known to
have reached the worker therefore counts as selected too. So selected = the sum of the outcomes + pending, whatever was
reported.

Counts are kept apart by source (one life of one frontend's feed) and by epoch (one life of a worker); no name is ever
used again. Once the worker has read a source to its end, what that source handed over and the worker did not receive
was lost on the way, and is `dropped`. Once the worker is gone, everything pending is `dropped`, the counts are folded
into the totals, and what frontends report late about that worker only adds to `dropped`: an outcome, once given, is not
taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from gnomon_server.control import labels
from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.sources import Sent, Sources
from gnomon_server.control.times import utc_now
from gnomon_server.control.verdict import Verdict
from gnomon_server.wire.counts import FeedCount
from gnomon_server.wire.labels import Label, LabelTally
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.tallies import Observed, PairTally

# Ended epochs of which late reports are still expected. Without a bound, a worker that crashes for ever would fill the
# memory; the epochs that are forgotten are those that no frontend has mentioned for the longest time.
CLOSED_EPOCHS: Final = 1024


class Ledger:
    """The counts of all comparisons since the store was created; no I/O, for one thread.

    Read a child's channel to its end before saying that it ended; nothing is expected of it afterwards.
    """

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        # Of ended epochs and of earlier servers.
        self._folded: dict[Pair, Comparison] = {}
        self._live: dict[str, _Epoch] = {}
        self._decided: dict[Pair, Verdict] = {}
        # Of ended epochs, of which only selected requests can still become known. The one that was mentioned last
        # stands last.
        self._closed: dict[str, Sources] = {}
        # What other servers counted that share the store.
        self._elsewhere: dict[Pair, Comparison] = {}
        # Labels that are on their way between servers: those that are held here, and of those the unknown ones.
        self._passing: dict[Pair, LabelTally] = {}
        self._strays: list[tuple[Pair, tuple[Label, ...]]] = []

    @classmethod
    def restore(cls, rows: Iterable[Comparison], clock: Callable[[], datetime] = utc_now) -> Ledger:
        """Returns a ledger that goes on from stored totals; what was pending died with the server that stored it."""
        ledger = cls(clock)
        for row in rows:
            ledger._fold(row.closed())
            if row.decided is not None:
                ledger.decide(row.pair, row.decided)
        return ledger

    def frontend_reported(self, counts: Iterable[FeedCount]) -> None:
        """Takes what a life of a frontend has counted since its start."""
        for count in counts:
            if count.epoch in self._closed:
                self._fed_late(count)
            elif count.selected:
                self._row(count.epoch, Pair(count.model, count.primary, count.shadow))
                self._live[count.epoch].sources.fed(count)

    def worker_reported(self, report: WorkerReport) -> None:
        """Takes what a worker has received and found since its start; nothing if its epoch has ended."""
        if report.epoch in self._closed:
            return
        sources = self._live.setdefault(report.epoch, _Epoch()).sources
        for count in report.sources:
            self._row(report.epoch, Pair(count.model, count.primary, count.shadow))
            sources.received(count)
        for source in report.ended:
            sources.ended(source)
        for tally in report.pairs:
            if _outcomes(tally).settled:
                self._row(report.epoch, Pair(tally.model, tally.primary, tally.shadow)).settle(tally)
        for found in report.labels:
            pair = Pair(found.model, found.primary, found.shadow)
            self._row(report.epoch, pair).label(found.tally)
            if found.strays:
                self._strays.append((pair, found.strays))
                self.hold(pair, waiting=len(found.strays))

    def epoch_ended(self, epoch: str) -> None:
        """Takes that the worker process is gone; what it had not settled is dropped."""
        if epoch not in self._closed:
            ended = self._live.pop(epoch, _Epoch())
            for pair in ended.rows:
                self._fold(ended.comparison(pair).closed())
            self._closed[epoch] = ended.sources
        while len(self._closed) > CLOSED_EPOCHS:
            del self._closed[next(iter(self._closed))]

    def counted_elsewhere(self, rows: Iterable[Comparison]) -> None:
        """Takes the newest totals of other servers, in place of what they were before."""
        self._elsewhere = {}
        for row in rows:
            known = self._elsewhere.get(row.pair)
            self._elsewhere[row.pair] = known.plus(row) if known else row

    def take_strays(self) -> list[tuple[Pair, tuple[Label, ...]]]:
        """Takes the labels over whose requests no worker knows; they stay on hold."""
        found, self._strays = self._strays, []
        return found

    def hold(self, pair: Pair, waiting: int = 0, unknown: int = 0) -> None:
        """Counts labels that are held here, and those of which nobody knows the requests, beside what workers count."""
        known = self._passing.get(pair, labels.NONE)
        self._passing[pair] = LabelTally(waiting=known.waiting + waiting, unknown=known.unknown + unknown)

    def totals(self, pair: Pair) -> Comparison:
        """Returns all that is known about a pair, here and elsewhere; empty where nothing was selected."""
        own = self._own(pair)
        return own.plus(self._elsewhere[pair]) if pair in self._elsewhere else own

    def comparisons(self) -> tuple[Comparison, ...]:
        """Returns the totals of every pair of which a request was ever selected here, in order."""
        pairs = set(self._folded).union(self._passing, *(epoch.rows for epoch in self._live.values()))
        return tuple(self._own(pair) for pair in sorted(pairs))

    def _own(self, pair: Pair) -> Comparison:
        total = self._folded.get(pair, Comparison(pair))
        for epoch in self._live.values():
            if pair in epoch.rows:
                total = total.plus(epoch.comparison(pair))
        passing = labels.merge(total.labels, self._passing.get(pair, labels.NONE))
        return replace(total, decided=self._decided.get(pair), labels=passing)

    def decide(self, pair: Pair, decided: Verdict) -> None:
        """Keeps the decision on a pair, in place of one by another policy or on another basis."""
        self._decided[pair] = decided

    def _row(self, epoch: str, pair: Pair) -> _Row:
        rows = self._live.setdefault(epoch, _Epoch()).rows
        if pair not in rows:
            rows[pair] = _Row(self._clock())
        return rows[pair]

    def _fed_late(self, count: FeedCount) -> None:
        sources = self._closed[count.epoch] = self._closed.pop(count.epoch)
        pair = Pair(count.model, count.primary, count.shadow)
        before = sources.known(pair).selected
        sources.fed(count)
        if late := sources.known(pair).selected - before:
            now = self._clock()
            self._fold(Comparison(pair, now, Outcomes(dropped=late), evidence=Evidence(lost=late, since=now)))

    def _fold(self, part: Comparison) -> None:
        known = self._folded.get(part.pair)
        self._folded[part.pair] = known.plus(part) if known else part


@dataclass
class _Row:
    """What the worker found for one pair in one living epoch."""

    since: datetime
    tally: PairTally | None = None
    labels: LabelTally = labels.NONE

    def settle(self, tally: PairTally) -> None:
        if self.tally is None or _outcomes(tally).settled > _outcomes(self.tally).settled:
            self.tally = tally

    def label(self, tally: LabelTally) -> None:
        # Labels that are passed on leave those that were received.
        before, after = ((one.requests, one.received + one.forwarded) for one in (self.labels, tally))
        if after >= before:
            self.labels = tally


@dataclass
class _Epoch:
    """All pairs of one living epoch."""

    rows: dict[Pair, _Row] = field(default_factory=dict)
    sources: Sources = field(default_factory=Sources)

    def comparison(self, pair: Pair) -> Comparison:
        sent, row = self.sources.known(pair), self.rows[pair]
        outcomes = Outcomes(dropped=sent.dropped, primary_error=sent.primary_error)
        if row.tally is not None:
            outcomes = outcomes.plus(_outcomes(row.tally))
        # What was settled was received, and what was received counts as selected: this is never negative.
        outcomes = replace(outcomes, pending=sent.selected - outcomes.settled)
        evidence = self._evidence(sent, row)
        if row.tally is None:
            return Comparison(pair, row.since, outcomes, evidence=evidence, labels=row.labels)
        return Comparison(
            pair,
            row.since,
            outcomes,
            agreement_sum=row.tally.agreement_sum,
            disagreeing=row.tally.disagreeing,
            outputs=row.tally.outputs,
            shadow_runs=row.tally.shadow_runs,
            primary_runs=row.tally.primary_runs,
            shadow_times=row.tally.shadow_times,
            primary_times=row.tally.primary_times,
            repeats=row.tally.repeats,
            evidence=evidence,
            strata=row.tally.strata,
            labels=row.labels,
        )

    @staticmethod
    def _evidence(sent: Sent, row: _Row) -> Evidence:
        observed = row.tally.observed if row.tally is not None else Observed()
        return Evidence(
            observed=observed,
            lost=sent.dropped,
            open=sent.handed - observed.requests,
            primary_errors=sent.primary_error,
            since=row.since,
        )


def _outcomes(tally: PairTally) -> Outcomes:
    return Outcomes(
        compared=tally.compared,
        shadow_error=tally.shadow_error,
        timeout=tally.timeout,
        dropped=tally.dropped,
        not_comparable=tally.not_comparable,
    )
