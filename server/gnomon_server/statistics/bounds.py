"""Bounds on a mean, and how much more data a decision is likely to need."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Final

from gnomon_server.statistics.evidence import log_lo, log_up
from gnomon_server.statistics.knots import Floats, Knots

# Nearest to 0 and 1 that a bound is sought.
_EDGE: Final = 1e-12
_STEPS: Final = 45
# Times the data that is there; beyond it nothing is foreseen.
_FARTHEST: Final = 1e9


def upper(knots: Knots, counts: Floats, alpha: float) -> float:
    """Returns the least mean that the data excludes from above, at all times at once with 1 - alpha; 1 if none."""
    mean = knots.mean(counts)
    if mean >= 1 - _EDGE or log_up(knots, counts, 1 - _EDGE) < log(1 / alpha):
        return 1.0
    return _crossing(lambda m: log_up(knots, counts, m) >= log(1 / alpha), mean, 1 - _EDGE)


def lower(knots: Knots, counts: Floats, alpha: float) -> float:
    """Returns the greatest mean that the data excludes from below, at all times at once with 1 - alpha; 0 if none."""
    mean = knots.mean(counts)
    if mean <= _EDGE or log_lo(knots, counts, _EDGE) < log(1 / alpha):
        return 0.0
    return _crossing(lambda m: log_lo(knots, counts, m) < log(1 / alpha), _EDGE, mean)


def more(log_evidence: Callable[[Floats], float], counts: Floats, alpha: float) -> float:
    """Returns how many more observations of the same kind bring the evidence to 1/alpha; infinite if none would.

    The logarithm is convex in the amount of data and 0 without any, so that it crosses the threshold at most once.
    """
    goal, scale = log(1 / alpha), 1.0
    while log_evidence(scale * counts) < goal:
        scale *= 2
        if scale > _FARTHEST:
            return float("inf")
    if scale == 1:
        return 0.0
    scale = _crossing(lambda s: log_evidence(s * counts) >= goal, scale / 2, scale)
    return (scale - 1) * float(counts.sum())


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Returns where a condition begins to hold, by bisection between where it does not and where it does."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
