"""Quantiles of counted values, with bounds that hold at all times at once.

The share of values above a point is a mean of indicators, so that evidence about a mean bounds it: the p-quantile is
below a point once it is excluded that as much as 1 - p of the values lie above it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import log

import numpy as np

from gnomon_server.statistics.evidence import log_lo, log_up
from gnomon_server.statistics.knots import BERN

# (bucket, count), ascending.
Buckets = Sequence[tuple[int, int]]


def quantile(buckets: Buckets, p: float) -> int:
    """Returns the bucket in which the p-quantile of the values lies; there must be one."""
    rest = p * sum(count for _, count in buckets)
    for bucket, count in buckets:
        rest -= count
        if rest <= 0:
            return bucket
    return buckets[-1][0]


def interval(buckets: Buckets, p: float, alpha: float) -> tuple[int | None, int | None]:
    """Returns the first and the last bucket in which the p-quantile may lie; None where nothing bounds it.

    Each of the two is wrong with a probability of at most alpha, however often one looks.
    """
    n = sum(count for _, count in buckets)
    most, least = _most_above(n, p, alpha), _least_above(n, p, alpha)
    low = high = None
    # How many values lie above the bucket.
    above = n
    for bucket, count in buckets:
        # Enough of them lie above the end of the bucket before, so that the quantile does as well.
        if least is not None and above >= least:
            low = bucket
        above -= count
        if high is None and above <= most:
            high = bucket
    return low, high


@lru_cache(1024)
def _most_above(n: int, p: float, alpha: float) -> int:
    """Returns how many of n values may lie above a point that is proven not to be below the p-quantile; -1: none."""
    return _first(n + 1, lambda g: log_up(BERN, np.array([n - g, g], np.float64), 1 - p) < log(1 / alpha)) - 1


@lru_cache(1024)
def _least_above(n: int, p: float, alpha: float) -> int | None:
    """Returns how many of n values must lie above a point that is proven to be below the p-quantile; None: too few."""
    found = _first(n + 1, lambda g: log_lo(BERN, np.array([n - g, g], np.float64), 1 - p) >= log(1 / alpha))
    return found if found <= n else None


def _first(size: int, holds: Callable[[int], bool]) -> int:
    """Returns the first number below `size` for which a condition holds that then goes on to hold; `size` if none."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
