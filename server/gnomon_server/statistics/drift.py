"""Drift: whether the rows of a window come from elsewhere than those of a reference, one feature at a time.

Three tests a feature. The shape is judged by a G test against the drift that is tolerated, so that a large window does
not alarm for what nobody minds; what is missing and what is novel by bounds on a share (Chernoff).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.profiles import EXTRA

Floats = NDArray[np.float64]

SHAPE: Final = "shape"
MISSING: Final = "missing"
NOVEL: Final = "novel"
# Rows that a bin must be expected to have.
EXPECTED: Final = 5.0
# Shares that are tolerated: of novel values, and by which missing ones may be more or fewer.
NOVEL_SHARE: Final = 0.005
MISSING_SHARE: Final = 0.02
# Tests of one feature.
TESTS: Final = 3
BUDGET_SECONDS: Final = 30 * 86400.0


@dataclass(frozen=True)
class Shape:
    """How the values of a window, without missing and novel ones, are distributed beside those of the reference."""

    # The statistic of the G test, and what it must exceed.
    statistic: float
    critical: float
    # On the scale of the PSI, without the bias of small windows.
    effect: float
    # The square root of the Jensen-Shannon divergence with logarithms to the base of 2, in [0, 1].
    distance: float


@dataclass(frozen=True)
class Usual:
    """What a reference has of one feature, and how far windows of it differ from the rest of it."""

    # Rows in each bin; the last two are missing and novel.
    counts: Floats
    # Share of novel values although nothing has changed, and the greatest that the reference's own windows have.
    unseen: float
    novel: float
    # Greatest effect, and least and greatest share of missing values, among the windows of the reference itself.
    effect: float
    missing: tuple[float, float]

    @property
    def share_missing(self) -> float:
        """Share of the reference's rows in which it is missing."""
        rows = float(self.counts.sum())
        return float(self.counts[-EXTRA] / rows) if rows else 0.0


@dataclass(frozen=True)
class Drift:
    """What a window shows of one feature."""

    # Of the shape: as in `Shape`; 0 where fewer than two bins can be told apart.
    distance: float
    effect: float
    # Shares of the window's rows.
    missing: float
    novel: float
    # The tests by which it is another distribution than the reference: SHAPE, MISSING, NOVEL.
    changed: tuple[str, ...]
    # Those of them by which it is so beyond what windows of the reference show.
    alarms: tuple[str, ...]


def usual(counts: Sequence[int], unseen: float, chunks: Sequence[tuple[Sequence[int], int]]) -> Usual:
    """Returns what is usual by the counts of a reference, and by counts and novel rows of its windows, if it has any.

    `unseen` is the share of rows that are novel although nothing has changed.
    """
    whole = np.asarray(counts, np.float64)
    parts = [(np.asarray(part, np.float64), novel) for part, novel in chunks if sum(part)]
    shapes = [shape(part[:-EXTRA], (whole - part)[:-EXTRA], 0.5, 0.0) for part, _ in parts]
    missing = [float(part[-EXTRA] / part.sum()) for part in (whole, *(part for part, _ in parts)) if part.sum()]
    return Usual(
        counts=whole,
        unseen=unseen,
        novel=max([unseen, *(novel / float(part.sum()) for part, novel in parts)]),
        effect=max([0.0, *(found.effect for found in shapes if found is not None)]),
        missing=(min(missing, default=0.0), max(missing, default=0.0)),
    )


def level(budget: float, features: int, window: float) -> float:
    """Returns the probability of a false alarm of one test, for so many expected ones in 30 days of windows.

    `window` is in seconds.
    """
    return min(0.5, budget * window / (BUDGET_SECONDS * TESTS * max(features, 1)))


def judge(window: Sequence[int], known: Usual, alpha: float, delta: float) -> Drift:
    """Judges the counts of a window, at least one row, over the bins of the reference.

    `alpha` is the probability of a false alarm of each test, `delta` the tolerated drift on the scale of the PSI.
    """
    counts = np.asarray(window, np.float64)
    rows = float(counts.sum())
    missing, novel = (float(share) for share in counts[-EXTRA:] / rows)
    share = known.share_missing
    sides = (counts[:-EXTRA], known.counts[:-EXTRA])

    def tests(tolerated: float, usually: tuple[float, float], new: float) -> tuple[str, ...]:
        found = shape(*sides, alpha, tolerated)
        low, high = usually[0] - MISSING_SHARE, usually[1] + MISSING_SHARE
        results = {
            SHAPE: found is not None and found.statistic > found.critical,
            MISSING: _above(missing, high, rows, alpha) or _below(missing, low, rows, alpha),
            NOVEL: _above(novel, new + NOVEL_SHARE, rows, alpha),
        }
        return tuple(name for name, result in results.items() if result)

    seen = shape(*sides, alpha, delta)
    return Drift(
        distance=seen.distance if seen is not None else 0.0,
        effect=seen.effect if seen is not None else 0.0,
        missing=missing,
        novel=novel,
        changed=tests(delta, (share, share), known.unseen),
        alarms=tests(max(delta, known.effect), known.missing, known.novel),
    )


def shape(window: Floats, reference: Floats, alpha: float, delta: float) -> Shape | None:
    """Returns how two counts over the same bins differ; None where fewer than two bins can be told apart."""
    window, reference = pooled(window, reference)
    bins = len(window)
    if bins < 2:
        return None
    n, m = window.sum(), reference.sum()
    spread = 1 / n + 1 / m
    mix = (window + reference) / (n + m)
    statistic = 2 * float(_likelihood(window, n * mix) + _likelihood(reference, m * mix))
    middle = (window / n + reference / m) / 2
    divergence = float(_likelihood(window / n, middle) + _likelihood(reference / m, middle)) / (2 * log(2))
    return Shape(
        statistic=statistic,
        critical=critical(alpha, bins - 1, delta / spread),
        effect=max(0.0, float((statistic - (bins - 1)) * spread)),
        distance=sqrt(min(1.0, max(0.0, divergence))),
    )


def pooled(window: Floats, reference: Floats) -> tuple[Floats, Floats]:
    """Returns both counts with those bins joined in which the window is expected to have fewer than 5 rows."""
    n, m = window.sum(), reference.sum()
    if not n or not m:
        return window[:0], reference[:0]
    few = n * reference / m < EXPECTED
    if not few.any():
        return window, reference
    sides = [np.append(side[~few], side[few].sum()) for side in (window, reference)]
    if len(sides[0]) > 1 and n * sides[1][-1] / m < EXPECTED:
        smallest = int(np.argmin(sides[1][:-1]))
        for side in sides:
            side[smallest] += side[-1]
        sides = [side[:-1] for side in sides]
    return sides[0], sides[1]


def critical(alpha: float, degrees: int, noncentrality: float) -> float:
    """Returns the upper quantile of the noncentral chi-square distribution, by the closed form of Sankaran (1963)."""
    k, l = float(degrees), noncentrality  # noqa: E741 - as in the source
    z = -NormalDist().inv_cdf(alpha)
    h = 1 - 2 * (k + l) * (k + 3 * l) / (3 * (k + 2 * l) ** 2)
    p = (k + 2 * l) / (k + l) ** 2
    q = (h - 1) * (1 - 3 * h)
    root = 1 + h * p * (h - 1 - (2 - h) * q * p / 2) + z * h * sqrt(2 * p) * (1 + q * p / 2)
    return float((k + l) * root ** (1 / h))


def _likelihood(counts: Floats, expected: Floats) -> float:
    """Returns the sum of c ln(c / e), where 0 ln 0 is 0."""
    some = counts > 0
    return float(np.sum(counts[some] * np.log(counts[some] / expected[some])))


def _above(share: float, limit: float, rows: float, alpha: float) -> bool:
    return share > limit and rows * _divergence(share, limit) >= log(1 / alpha)


def _below(share: float, limit: float, rows: float, alpha: float) -> bool:
    return limit > 0 and share < limit and rows * _divergence(share, limit) >= log(1 / alpha)


def _divergence(a: float, p: float) -> float:
    """Returns the Kullback-Leibler divergence of two shares; p is in (0, 1)."""
    return (a * log(a / p) if a else 0.0) + ((1 - a) * log((1 - a) / (1 - p)) if a < 1 else 0.0)
