"""Sketches: durations counted in buckets 1.1 % wide, mergeable by addition.

Bucket i holds the nanoseconds in (2^(i/64), 2^((i+1)/64)]: an exponential histogram of scale 6, as the metrics data
model of OpenTelemetry defines it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_server.wire.counts import SketchCounts

# Buckets in which a duration doubles.
STEPS: Final = 64
# Buckets up to 2^45 nanoseconds, nearly ten hours; what takes longer is in the last one.
SIZE: Final = 45 * STEPS
# Additions that are counted together.
WAITING: Final = 256
EMPTY: Final = SketchCounts((), 0.0)


class Sketch:
    """A sketch that is being counted."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(SIZE, np.int64)
        self._total = 0
        # Not counted yet: many together cost little more than one.
        self._waiting: list[NDArray[np.int64]] = []
        self._times: list[int] = []

    def add(self, nanoseconds: NDArray[np.int64], times: int = 1) -> None:
        """Counts each of some durations, `times` times."""
        self._waiting.append(nanoseconds)
        self._times.append(times)
        if len(self._waiting) >= WAITING:
            self._count()

    def _count(self) -> None:
        if not self._waiting:
            return
        nanoseconds = np.concatenate(self._waiting)
        times = np.repeat(self._times, [len(part) for part in self._waiting])
        self._waiting, self._times = [], []
        buckets = np.ceil(STEPS * np.log2(np.maximum(nanoseconds, 1))).astype(np.int64) - 1
        np.add.at(self._counts, np.minimum(np.maximum(buckets, 0), SIZE - 1), times)
        self._total += int(nanoseconds @ times)

    def snapshot(self) -> SketchCounts:
        """Returns the counts so far."""
        self._count()
        filled = np.flatnonzero(self._counts)
        return SketchCounts(tuple(zip(filled.tolist(), self._counts[filled].tolist(), strict=True)), self._total / 1e9)


def merge(parts: Iterable[SketchCounts]) -> SketchCounts:
    """Adds sketches."""
    counts: Counter[int] = Counter()
    total = 0.0
    for part in parts:
        counts.update(dict(part.buckets))
        total += part.total
    return SketchCounts(tuple(sorted(counts.items())), total)


def edge(bucket: int) -> float:
    """Returns the greatest duration of a bucket in seconds; the one before it is what all its durations exceed."""
    return float(2 ** ((bucket + 1) / STEPS) / 1e9)
