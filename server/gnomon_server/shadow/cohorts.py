"""Cohorts: blocks of requests by the time they were answered, whose losses change until their labels are due.

An observation is the mean of a block of consecutive requests, as for the disagreement. What is judged must not depend
on how fast labels come: a cohort is looked at as a whole, once no label of its requests can come any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.labels import CohortCounts

# Spans of time into which the horizon is divided.
PARTS: Final = 16
# Cohorts in a report: those of the horizon, and older ones that are judged already.
MOST: Final = 2 * PARTS


class Block:
    """Consecutive requests; `up` and `lo` sum what the shadow loses more than the primary, at worst and at best."""

    __slots__ = ("cohort", "counted", "labelled", "lo", "open", "size", "until_ns", "up")

    def __init__(self) -> None:
        self.size = self.counted = self.labelled = self.open = 0
        self.up = self.lo = 0.0
        self.until_ns = 0
        # Of a block that is full.
        self.cohort: _Cohort | None = None

    def change(self, up: float, lo: float) -> None:
        """Adds to what is known of a request that counts already."""
        self.up += up
        self.lo += lo
        self.touch()

    def touch(self) -> None:
        """Has the counts of its cohort made anew."""
        if self.cohort is not None:
            self.cohort.stale = True


class Cohorts:
    """The cohorts of one pair."""

    def __init__(self, block: int, horizon: float) -> None:
        self._block = block
        self._width = max(1, round(horizon * 1e9 / PARTS))
        self._cohorts: dict[int, _Cohort] = {}
        # By share of the requests that is mirrored: no block has requests of two.
        self._filling: dict[float, Block] = {}

    def add(self, sample: float, end_ns: int) -> Block:
        """Returns the block of the next request, which was answered at that time."""
        block = self._filling.get(sample)
        if block is None:
            block = self._filling[sample] = Block()
        block.size += 1
        block.until_ns = max(block.until_ns, end_ns)
        if block.size == self._block:
            del self._filling[sample]
            key = block.until_ns // self._width
            block.cohort = self._cohorts.setdefault(key, _Cohort((key + 1) * self._width))
            block.cohort.blocks.append(block)
            block.cohort.stale = True
        return block

    def snapshot(self) -> tuple[CohortCounts, ...]:
        """Returns the counts so far, oldest first."""
        counts = [self._cohorts[key].counts() for key in sorted(self._cohorts)]
        while len(self._cohorts) > MOST:
            one, other = (self._cohorts.pop(key) for key in sorted(self._cohorts)[:2])
            self._cohorts[other.until_ns // self._width - 1] = one.joined(other)
            counts = [counts[0].plus(counts[1]), *counts[2:]]
        return tuple(counts)


class _Cohort:
    """The full blocks of one span of time; those of which nothing can change are counts only."""

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.blocks: list[Block] = []
        self.stale = True
        self._closed = CohortCounts(until_ns, 0, 0, _NONE, _NONE)
        self._counts = self._closed

    def counts(self) -> CohortCounts:
        if self.stale:
            self._closed = self._closed.plus(self._of([block for block in self.blocks if not block.open]))
            self.blocks = [block for block in self.blocks if block.open]
            self._counts = self._closed.plus(self._of(self.blocks))
            self.stale = False
        return self._counts

    def joined(self, other: _Cohort) -> _Cohort:
        """Returns this cohort and a younger one as one."""
        for block in self.blocks:
            block.cohort = other
        other.blocks += self.blocks
        other._closed = self._closed.plus(other._closed)
        other.stale = True
        return other

    def _of(self, blocks: Sequence[Block]) -> CohortCounts:
        up, lo = (
            np.array([(1 + value / b.counted) / 2 for b, value in sums if b.counted]).clip(0.0, 1.0)
            for sums in ([(b, b.up) for b in blocks], [(b, b.lo) for b in blocks])
        )
        return CohortCounts(
            until_ns=self.until_ns,
            requests=sum(block.size for block in blocks),
            labelled=sum(block.labelled for block in blocks),
            up=tuple(SYM64.counts(up).tolist()),
            lo=tuple(SYM64.counts(lo).tolist()),
        )


_NONE: Final = (0.0,) * len(SYM64)
