"""Evidence: what a portfolio of fixed bets has won against a claim about a mean.

A fixed bet on a mean of at least (or at most) m multiplies its stake by a factor whose conditional mean is at most 1
while the claim is true, so that the stakes of a portfolio exceed 1/alpha ever with a probability of at most alpha:
J. Ville, "Etude critique de la notion de collectif" (1939). Nothing depends on how often or when one looks, and since
the bets are fixed, counts are all there is to know: they merge by addition, whatever their order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from gnomon_server.statistics.knots import Floats, Knots

# Shares of the stake on a mean below m, in geometric steps, and the stakes' own weights.
_C: Final = 0.01 * 98 ** (np.arange(16) / 15)
_U: Final = np.log(_C / _C.sum())
# Ratios on a mean above m: the stake is r/(1 - m), and never more than half of what could be lost.
_R: Final = 0.01 * 5000 ** (np.arange(18) / 17)
_V: Final = np.log(_R / (1 + _R) ** 2 / (_R / (1 + _R) ** 2).sum())


def log_up(knots: Knots, counts: Floats, m: float) -> float:
    """Returns log E against a mean of at least m, with m in (0, 1); nondecreasing in m."""
    stakes, factors = factors_up(knots, m)
    return _log_sum(stakes + factors @ counts)


def log_lo(knots: Knots, counts: Floats, m: float) -> float:
    """Returns log E against a mean of at most m, with m in (0, 1); nonincreasing in m."""
    stakes, factors = factors_lo(knots, m)
    return _log_sum(stakes + factors @ counts)


@lru_cache(256)
def factors_up(knots: Knots, m: float) -> tuple[Floats, Floats]:
    """Returns logarithms: the stake of each bet against a mean of at least m, and its factor at each knot.

    float64[16] and float64[16, K + 1]; not to be altered.
    """
    return _U, np.log1p(np.outer(_C, (m - knots.array) / (1 - m)))


@lru_cache(256)
def factors_lo(knots: Knots, m: float) -> tuple[Floats, Floats]:
    """Returns the same against a mean of at most m: float64[18] and float64[18, K + 1]."""
    rates = np.minimum(_R / (1 - m), 1 / (2 * m))
    return _V, np.log1p(np.outer(rates, knots.array - m))


def _log_sum(logs: Floats) -> float:
    top = float(logs.max())
    return top + float(np.log(np.exp(logs - top).sum()))
