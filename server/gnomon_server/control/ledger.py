"""The ledger: which requests were selected for a shadow and what became of each, exactly.

Children report cumulative counts, so a report that is lost, repeated or overtaken does no harm. Selected requests and
settled ones are reported by different processes, and one report can lag behind the other; a request that is known to be
settled therefore counts as selected too. So selected = the sum of the outcomes + pending, whatever was reported.

Counts are kept apart by the lives of processes (a frontend's id, a worker's epoch; neither is ever used again) until
the worker is gone. Then everything pending is `dropped`, the counts are folded into the totals, and what frontends
report late about that worker only adds to `dropped`: an outcome, once given, is not taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, NamedTuple

from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.wire.messages import FeedCount, PairTally

# Ended epochs of which late reports are still expected. Without a bound, a worker that crashes for ever would fill the
# memory; the epochs that are forgotten are those that no frontend has mentioned for the longest time.
CLOSED_EPOCHS: Final = 1024


def utc_now() -> datetime:
    """Returns the present time."""
    return datetime.now(UTC)


class Ledger:
    """The counts of all comparisons since the store was created; no I/O, for one thread.

    Read a child's channel to its end before saying that it ended; nothing is expected of it afterwards.
    """

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        # Of ended epochs and of earlier servers.
        self._folded: dict[Pair, Comparison] = {}
        self._live: dict[str, dict[Pair, _Row]] = {}
        # The one that was mentioned last stands last.
        self._closed: dict[str, dict[Pair, _ClosedRow]] = {}

    @classmethod
    def restore(cls, rows: Iterable[Comparison], clock: Callable[[], datetime] = utc_now) -> Ledger:
        """Returns a ledger that goes on from stored totals; what was pending died with the server that stored it."""
        ledger = cls(clock)
        for row in rows:
            ledger._fold(row.closed())
        return ledger

    def frontend_reported(self, frontend: str, counts: Iterable[FeedCount]) -> None:
        """Takes what one life of a frontend has counted since its start; several counts of one feed add up."""
        sums: dict[tuple[str, Pair], _Fed] = {}
        for count in counts:
            key = (count.epoch, Pair(count.model, count.primary, count.shadow))
            fed = _Fed(count.selected, count.dropped, count.primary_error)
            sums[key] = fed.plus(sums.get(key, _Fed()))
        for (epoch, pair), fed in sums.items():
            if epoch in self._closed:
                self._fed_late(epoch, pair, frontend, fed)
            elif fed.selected:
                self._row(epoch, pair).feeds.take(frontend, fed)

    def frontend_ended(self, frontend: str) -> None:
        """Takes that this life of a frontend is over; its last counts remain."""
        for rows in self._live.values():
            for row in rows.values():
                row.feeds.depart(frontend)
        for closed_rows in self._closed.values():
            for closed_row in closed_rows.values():
                closed_row.feeds.depart(frontend)

    def worker_reported(self, epoch: str, tallies: Iterable[PairTally]) -> None:
        """Takes what a worker has found since its start; nothing if its epoch has ended."""
        if epoch in self._closed:
            return
        for tally in tallies:
            if _outcomes(tally).settled:
                self._row(epoch, Pair(tally.model, tally.primary, tally.shadow)).settle(tally)

    def epoch_ended(self, epoch: str) -> None:
        """Takes that the worker process is gone; what it had not settled is dropped."""
        closed = self._closed.setdefault(epoch, {})
        for pair, row in self._live.pop(epoch, {}).items():
            part = row.comparison(pair).closed()
            self._fold(part)
            closed[pair] = _ClosedRow(part.outcomes.selected, row.feeds)
        while len(self._closed) > CLOSED_EPOCHS:
            del self._closed[next(iter(self._closed))]

    def totals(self, pair: Pair) -> Comparison:
        """Returns all that is known about a pair; empty where nothing was selected."""
        total = self._folded.get(pair, Comparison(pair))
        for rows in self._live.values():
            if pair in rows:
                total = total.plus(rows[pair].comparison(pair))
        return total

    def comparisons(self) -> tuple[Comparison, ...]:
        """Returns the totals of every pair of which a request was ever selected, in order."""
        pairs = set(self._folded).union(*self._live.values())
        return tuple(self.totals(pair) for pair in sorted(pairs))

    def _row(self, epoch: str, pair: Pair) -> _Row:
        rows = self._live.setdefault(epoch, {})
        if pair not in rows:
            rows[pair] = _Row(self._clock())
        return rows[pair]

    def _fed_late(self, epoch: str, pair: Pair, frontend: str, fed: _Fed) -> None:
        rows = self._closed[epoch] = self._closed.pop(epoch)
        row = rows.setdefault(pair, _ClosedRow())
        row.feeds.take(frontend, fed)
        if late := row.late():
            self._fold(Comparison(pair, self._clock(), Outcomes(dropped=late)))

    def _fold(self, part: Comparison) -> None:
        known = self._folded.get(part.pair)
        self._folded[part.pair] = known.plus(part) if known else part


class _Fed(NamedTuple):
    """The counts of a FeedCount."""

    selected: int = 0
    dropped: int = 0
    primary_error: int = 0

    def plus(self, other: _Fed) -> _Fed:
        return _Fed(*(a + b for a, b in zip(self, other, strict=True)))


class _Feeds:
    """What each frontend selected in one epoch of a pair."""

    def __init__(self) -> None:
        self._counts: dict[str, _Fed] = {}
        self._departed = _Fed()

    def take(self, frontend: str, fed: _Fed) -> None:
        # Counters only grow, so of two reports the one with the greater counts is the later.
        known = self._counts.get(frontend, fed)
        self._counts[frontend] = _Fed(*map(max, known, fed))

    def depart(self, frontend: str) -> None:
        self._departed = self._departed.plus(self._counts.pop(frontend, _Fed()))

    def total(self) -> _Fed:
        return _Fed(*map(sum, zip(self._departed, *self._counts.values(), strict=True)))


@dataclass
class _Row:
    """One pair in one living epoch."""

    since: datetime
    feeds: _Feeds = field(default_factory=_Feeds)
    tally: PairTally | None = None

    def settle(self, tally: PairTally) -> None:
        if self.tally is None or _outcomes(tally).settled > _outcomes(self.tally).settled:
            self.tally = tally

    def comparison(self, pair: Pair) -> Comparison:
        fed = self.feeds.total()
        outcomes = Outcomes(dropped=fed.dropped, primary_error=fed.primary_error)
        if self.tally is not None:
            outcomes = outcomes.plus(_outcomes(self.tally))
        outcomes = replace(outcomes, pending=max(0, fed.selected - outcomes.settled))
        if self.tally is None:
            return Comparison(pair, self.since, outcomes)
        return Comparison(
            pair,
            self.since,
            outcomes,
            agreement_sum=self.tally.agreement_sum,
            disagreeing=self.tally.disagreeing,
            outputs=self.tally.outputs,
            shadow_runs=self.tally.shadow_runs,
            primary_runs=self.tally.primary_runs,
        )


@dataclass
class _ClosedRow:
    """One pair in one ended epoch, of which only selected requests can still become known."""

    # Selected requests that are in the totals already.
    counted: int = 0
    feeds: _Feeds = field(default_factory=_Feeds)

    def late(self) -> int:
        """Returns how many selected requests became known since the last call."""
        late = max(0, self.feeds.total().selected - self.counted)
        self.counted += late
        return late


def _outcomes(tally: PairTally) -> Outcomes:
    return Outcomes(
        compared=tally.compared,
        shadow_error=tally.shadow_error,
        timeout=tally.timeout,
        dropped=tally.dropped,
        not_comparable=tally.not_comparable,
    )
