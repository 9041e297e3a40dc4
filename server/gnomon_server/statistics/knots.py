"""Knots: fixed grids over [0, 1] into whose counts observations are binned, so that they merge by addition.

A value is split between its two neighbours in proportion to its nearness. The sum of the data is kept exactly, and as
the logarithm of a bet is concave in the value, evidence from the split is never more than from the value itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Knots:
    """A grid: rising from 0 to 1, and hashable."""

    name: str
    points: tuple[float, ...]

    @cached_property
    def array(self) -> Floats:
        """The points as float64[K + 1]."""
        return np.array(self.points)

    def __len__(self) -> int:
        return len(self.points)

    def none(self) -> Floats:
        """Returns the counts without an observation."""
        return np.zeros(len(self))

    def counts(self, values: Floats) -> Floats:
        """Returns the counts, float64[K + 1], of values in [0, 1]."""
        points, last = self.array, len(self) - 2
        below = np.minimum(points.searchsorted(values, side="right") - 1, last)
        share = (values - points[below]) / (points[below + 1] - points[below])
        size = len(self)
        low, high = (np.bincount(at, weights, size) for at, weights in ((below, 1 - share), (below + 1, share)))
        # Without a value, bincount gives integers.
        return np.asarray(low + high, np.float64)

    def mean(self, counts: Floats) -> float:
        """Returns the mean of the data behind counts; 0 without data."""
        total = float(counts.sum())
        # The mean of values in [0, 1] is in it; the rounding of the quotient must not say otherwise.
        return min(1.0, float(counts @ self.array) / total) if total > 0 else 0.0


_GEOMETRIC: Final = (0.0, *(10 ** (-4 + 4 * j / 31) for j in range(31)), 1.0)

# Labels and other indicators.
BERN: Final = Knots("BERN", (0.0, 1.0))
# e in {-1, 0, 1}, as (e + 1)/2.
TERN: Final = Knots("TERN", (0.0, 0.5, 1.0))
# Distances and means of blocks: fine near 0, where tolerances lie.
GEO32: Final = Knots("GEO32", _GEOMETRIC)
# e in [-1, 1], as (e + 1)/2, fine near e = 0.
SYM64: Final = Knots(
    "SYM64", (*((1 - g) / 2 for g in reversed(_GEOMETRIC[1:])), 0.5, *((1 + g) / 2 for g in _GEOMETRIC[1:]))
)


def signed(counts: Floats) -> Floats:
    """Returns counts of e in [0, 1] over GEO32 as counts of (e + 1)/2 over SYM64."""
    return np.concatenate([np.zeros(len(SYM64) - len(GEO32)), counts])
