"""Differences: which requests the shadow disagrees on, and where in the input space they lie."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import pi
from typing import Final

import numpy as np

from gnomon_server.settings import CompareSettings
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.reservoir import Reservoir
from gnomon_server.shadow.rows import Rows, Sample
from gnomon_server.statistics import segments
from gnomon_server.wire.tallies import KeptRequest, SegmentFound, SegmentSearch

# Probability that any segment is ever named without cause.
LEVEL: Final = 0.001
# Rows, and disagreeing ones, before the first search.
FIRST_ROWS: Final = 500
FIRST_DIFFERING: Final = 10
# Growth of the rows after which one searches again, or the least of it once no more come.
GROWTH: Final = 1.5
REST: Final = 1.02
EXAMPLES: Final = 3
# After a search nothing is searched for so many times as long: it takes the time of the comparison.
PAUSE: Final = 20


class Differences:
    """Gathers on the event loop of the worker; searches in a thread of its own, now and then."""

    def __init__(self, settings: CompareSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes a clock of seconds."""
        self._clock = clock
        self._reservoir = Reservoir(settings)
        self._most, self._redacted = settings.segment_rows, frozenset(settings.redact)
        self._primary = 0
        self._rows = Rows(self._most, self._redacted)
        self._searches = 0
        # Rows that had been seen at the last search, and at the last look.
        self._searched, self._looked = 0, 0
        self._searching: asyncio.Future[SegmentSearch] | None = None
        # By the clock: when the last search began, and before which none begins.
        self._began = self._pause_until = 0.0
        self._found: tuple[SegmentSearch, ...] = ()
        self._executor = ThreadPoolExecutor(1, "segments")

    def settle(self, compared: Compared) -> None:
        """Takes a batch that was compared."""
        self._reservoir.settle(compared)
        if not self._most:
            return
        primary = compared.batch.requests[0].record.primary
        if primary != self._primary:
            self._primary, self._rows = primary, Rows(self._most, self._redacted)
            self._searched, self._searches = 0, 0
        self._rows.settle(compared)

    def kept(self) -> tuple[KeptRequest, ...]:
        """Returns the requests that were kept since the last call."""
        return self._reservoir.take()

    def searched(self) -> tuple[SegmentSearch, ...]:
        """Returns what searches found since the last call, and begins another one if it is time for it."""
        if self._most and self._searching is None and self._due():
            self._begin()
        found, self._found = self._found, ()
        return found

    async def finish(self, seconds: float) -> None:
        """Searches a last time, for at most so many seconds; nothing is searched afterwards."""
        until = asyncio.get_running_loop().time() + seconds
        # The one that is under way, if there is one, and one of all rows.
        for _ in range(2):
            if self._searching is None and self._rows.seen > self._searched and self._enough():
                self._begin()
            if self._searching is not None:
                await asyncio.wait({self._searching}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
        self._most = 0
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _due(self) -> bool:
        seen, resting = self._rows.seen, self._rows.seen == self._looked
        self._looked = seen
        enough = self._enough() and seen >= self._searched * (REST if resting else GROWTH)
        return enough and self._clock() >= self._pause_until

    def _enough(self) -> bool:
        return self._rows.seen >= FIRST_ROWS and self._rows.differing >= FIRST_DIFFERING

    def _begin(self) -> None:
        self._searched = self._rows.seen
        sample = self._rows.snapshot()
        if sample is None:
            return
        self._searches += 1
        self._began = self._clock()
        # All searches together may not err more often than one: the levels of a million of them add up to it.
        level = LEVEL * 6 / (pi * self._searches) ** 2
        loop = asyncio.get_running_loop()
        self._searching = loop.run_in_executor(self._executor, search, sample, self._primary, level)
        self._searching.add_done_callback(self._ended)

    def _ended(self, searching: asyncio.Future[SegmentSearch]) -> None:
        self._searching = None
        now = self._clock()
        self._pause_until = now + PAUSE * (now - self._began)
        if not searching.cancelled():
            self._found = (searching.result(),)


def search(sample: Sample, primary: int, level: float) -> SegmentSearch:
    """Returns what a sample says of where the disagreement is."""
    found = segments.search(sample.features, sample.differ, sample.half, level)
    return SegmentSearch(
        primary=primary,
        rows=len(sample.differ),
        disagreeing=int(np.count_nonzero(sample.differ)),
        found=tuple(_found(segment, sample) for segment in found),
    )


def _found(segment: segments.Segment, sample: Sample) -> SegmentFound:
    held = segments.shares(segment, sample.differ, sample.weights)
    return SegmentFound(
        conditions=segment.conditions,
        rows=held.rows,
        disagreements=held.differing,
        rate=held.rate,
        rate_outside=held.rate_outside,
        p=segment.p,
        trace_ids=tuple(sample.traces[segment.rows & sample.differ][:EXAMPLES].tolist()),
    )
