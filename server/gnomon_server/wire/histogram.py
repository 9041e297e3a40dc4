"""Histograms over fixed bounds, cheap to count into and mergeable by addition."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

from gnomon_server.wire.counts import HistogramCounts

# Seconds. Small models answer in tens of microseconds, far below the 5 ms at which the RPC convention begins.
DURATION_BOUNDS: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
# Seconds: the boundaries of rpc.server.call.duration, OpenTelemetry semantic conventions 1.44.0.
CALL_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# Rows of a run.
BATCH_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
# A row's divergence, in [0, 1].
DIVERGENCE_BOUNDS: Final = (0.0, 0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)


class Histogram:
    """A histogram that is being counted; bucket i holds values v with bounds[i-1] < v <= bounds[i]."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Counts one value, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def add_all(self, values: Sequence[float]) -> None:
        """Counts values, of which there is at least one."""
        least, most = bisect_left(self.bounds, min(values)), bisect_left(self.bounds, max(values))
        if least == most:
            self.counts[least] += len(values)
        else:
            for value in values:
                self.counts[bisect_left(self.bounds, value)] += 1
        self.total += sum(values)

    def snapshot(self) -> HistogramCounts:
        """Returns the counts so far."""
        return HistogramCounts(tuple(self.counts), self.total)


def empty(bounds: Sequence[float]) -> HistogramCounts:
    """Returns a histogram without observations."""
    return HistogramCounts((0,) * (len(bounds) + 1), 0.0)


def merge(parts: Iterable[HistogramCounts], bounds: Sequence[float]) -> HistogramCounts:
    """Adds histograms over the same bounds."""
    counts, total = [0] * (len(bounds) + 1), 0.0
    for part in parts:
        counts = [a + b for a, b in zip(counts, part.counts, strict=True)]
        total += part.total
    return HistogramCounts(tuple(counts), total)
