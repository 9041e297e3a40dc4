"""Segments: slices of the input space that hold more than their share of the rows that differ.

Candidates are ranges between the deciles of a number, levels of a text, and pairs of these; the ends of a range that
stands out are then moved, percentile by percentile, to where it does so most. One half of the rows says all this, by
the likelihood ratio of two rates; the other half, which has no part in the choice, says whether it is so, by the
hypergeometric test and Holm's correction. So what is named is named by chance only with the probability that was asked
for, however many candidates there were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Codes = NDArray[np.intp]
# float64[n] or object[n].
Values = NDArray[Any]

# Segments that are looked for, and rows that differ without which there is none.
MOST: Final = 3
LEAST_DIFFERING: Final = 5
# What a segment must hold: rows, as a number and as a share of its half, and rows that differ.
LEAST_ROWS: Final = 30
LEAST_SHARE: Final = 0.01
LEAST_HITS: Final = 3
# Single conditions that are tried together with every other one, and what the second one costs, in nats.
BEAM: Final = 20
SECOND: Final = 2.0
# A second condition that leaves nearly all rows of the first one says nothing.
SMALLER: Final = 0.98
LEAST_SCORE: Final = 3.0
LEVELS: Final = 50
# Percentiles by which the ends of a range may move.
REACH: Final = 10


@dataclass(frozen=True)
class Segment:
    """A slice that stands out."""

    # Such as ("carrier = 'HA'", "distance >= 2,300").
    conditions: tuple[str, ...]
    # bool[n]: the rows that are in it.
    rows: Flags
    # Probability that chance alone would have it stand out as much, corrected for the segments that were tried.
    p: float


class Shares(NamedTuple):
    """How much a segment holds."""

    # Of all rows, and of those that differ.
    rows: float
    differing: float
    # Rows that differ among those inside, and among those outside.
    rate: float
    rate_outside: float


@dataclass(frozen=True)
class _Candidate:
    """Rows whose code of one feature lies in [low, high]."""

    feature: int
    low: int
    high: int


def search(features: dict[str, Values], differ: Flags, half: Flags, level: float) -> list[Segment]:
    """Returns the segments that stand out, the clearest first, each without the rows of those before it.

    `differ` says which rows differ, `half` which of them choose. Any segment is named without cause with a probability
    of at most `level`.
    """
    if not features or not len(differ):
        return []
    space = _Space(features, half)
    active = np.flatnonzero(half)
    least = max(LEAST_ROWS, LEAST_SHARE * len(active))
    found: list[tuple[_Candidate, ...]] = []
    while len(found) < MOST:
        best = space.best(active, differ, least)
        if best is None:
            break
        found.append(best)
        active = active[~space.inside(best, active)]
    return _confirmed(space, found, differ, np.flatnonzero(~half), level)


def _confirmed(
    space: _Space, found: Sequence[tuple[_Candidate, ...]], differ: Flags, rest: Codes, level: float
) -> list[Segment]:
    tested = []
    for candidates in found:
        inside = space.inside(candidates, rest)
        p = _hypergeometric(len(rest), int(differ[rest].sum()), int(inside.sum()), int(differ[rest[inside]].sum()))
        tested.append((p, candidates))
        rest = rest[~inside]
    everything = np.arange(len(differ))
    segments, worst = [], 0.0
    for rank, (p, candidates) in enumerate(sorted(tested, key=lambda one: one[0])):
        # Holm 1979: the least p-value is held to the strictest level, and a failure ends the list.
        worst = max(worst, min(1.0, p * (len(tested) - rank)))
        if worst > level:
            break
        rows = space.inside(candidates, everything)
        segments.append((found.index(candidates), Segment(space.words(candidates, rows), rows, worst)))
    return [segment for _, segment in sorted(segments, key=lambda one: one[0])]


class _Space:
    """All features as small numbers, so that a pass over the rows counts every candidate at once."""

    def __init__(self, features: dict[str, Values], half: Flags) -> None:
        self._names = list(features)
        self._values = list(features.values())
        coded = [_coded(values, half) for values in self._values]
        self._codes: Codes = np.stack([one.codes for one in coded], axis=1)
        # By feature: the last code of an ordered value; -1 where there is no order.
        self._last = [one.last for one in coded]
        candidates = [_Candidate(i, *ends) for i, one in enumerate(coded) for ends in one.ranges]
        self._candidates = candidates
        self._feature, self._low, self._high = (
            np.array([getattr(one, name) for one in candidates], np.intp) for name in ("feature", "low", "high")
        )
        self._width = int(max(self._codes.max(), self._high.max())) + 1

    def best(self, active: Codes, differ: Flags, least: float) -> tuple[_Candidate, ...] | None:
        """Returns the conditions, one or two, by which the active rows fall apart most; None if nothing stands out."""
        total, hits = len(active), int(differ[active].sum())
        if hits < LEAST_DIFFERING:
            return None
        scores = self._scores(active, differ, (total, hits), least, total)
        chosen: tuple[float, tuple[_Candidate, ...]] = (LEAST_SCORE, ())
        for first in np.argsort(-scores, kind="stable")[:BEAM]:
            if scores[first] == -inf:
                break
            one = self._candidates[first]
            if scores[first] > chosen[0]:
                chosen = (float(scores[first]), (one,))
            rows = active[self.inside((one,), active)]
            paired = self._scores(rows, differ, (total, hits), least, SMALLER * len(rows)) - SECOND
            paired[self._feature == one.feature] = -inf
            second = int(paired.argmax())
            if paired[second] > chosen[0]:
                chosen = (float(paired[second]), (one, self._candidates[second]))
        return self._refined(chosen[1], active, differ, least) or None

    def _refined(
        self, chosen: tuple[_Candidate, ...], active: Codes, differ: Flags, least: float
    ) -> tuple[_Candidate, ...]:
        """Returns the conditions with the ends of their ranges where they stand out most."""
        whole = (len(active), int(differ[active].sum()))
        for index in range(len(chosen)):
            others = (*chosen[:index], *chosen[index + 1 :])
            rows = active[self.inside(others, active)]
            moved = self._moved(chosen[index], rows, differ, whole, least)
            chosen = (*chosen[:index], moved, *chosen[index + 1 :])
        return chosen

    def _moved(self, one: _Candidate, rows: Codes, differ: Flags, whole: tuple[int, int], least: float) -> _Candidate:
        last = self._last[one.feature]
        if one.high > last:
            return one
        # An end that is open stays so.
        lows = (
            np.arange(max(1, one.low - REACH), min(one.high, one.low + REACH) + 1) if one.low else np.zeros(1, np.intp)
        )
        highs = np.arange(max(0, one.high - REACH), min(last - 1, one.high + REACH) + 1) if one.high < last else [last]
        low, high = (ends.ravel() for ends in np.meshgrid(lows, highs))
        low, high = low[low <= high], high[low <= high]
        codes = self._codes[rows, one.feature]
        n, k = (
            np.concatenate([[0.0], np.bincount(part, minlength=last + 2).cumsum()])
            for part in (codes, codes[differ[rows]])
        )
        n, k = n[high + 1] - n[low], k[high + 1] - k[low]
        scores = np.where((n >= least) & (k >= LEAST_HITS), _score(n, k, *whole), -inf)
        best = int(scores.argmax())
        return _Candidate(one.feature, int(low[best]), int(high[best])) if scores[best] > -inf else one

    def inside(self, candidates: Sequence[_Candidate], rows: Codes) -> Flags:
        """Returns which of some rows meet all conditions."""
        met: Flags = np.ones(len(rows), np.bool_)
        for one in candidates:
            codes = self._codes[rows, one.feature]
            met &= (codes >= one.low) & (codes <= one.high)
        return met

    def words(self, candidates: Sequence[_Candidate], rows: Flags) -> tuple[str, ...]:
        """Returns the conditions as text; `rows` are those that meet them."""
        return tuple(self._word(one, rows) for one in candidates)

    def _word(self, one: _Candidate, rows: Flags) -> str:
        name, values = self._names[one.feature], self._values[one.feature]
        codes = self._codes[:, one.feature]
        met = values[rows]
        if values.dtype.kind != "f":
            return f"{name} = {met[0]!r}"
        if np.isnan(met[0]):
            return f"{name} is missing"
        if met.min() == met.max():
            return f"{name} = {met[0]:,.6g}"
        known = ~np.isnan(values)
        # The ends are those of the bins, not those of the rows that happened to come.
        low, high = values[known & (codes >= one.low)].min(), values[known & (codes > one.high)].min(initial=inf)
        above, below = (codes[known] < one.low).any(), high < inf
        if above and below:
            return f"{low:,.6g} <= {name} < {high:,.6g}"
        return f"{name} >= {low:,.6g}" if above else f"{name} < {high:,.6g}"

    def _scores(self, rows: Codes, differ: Flags, whole: tuple[int, int], least: float, most: float) -> Floats:
        """Returns how much each candidate stands out among some rows; minus infinity where it holds too little."""
        codes = self._codes[rows] + np.arange(len(self._names)) * self._width
        n, k = self._counted(codes), self._counted(codes[differ[rows]])
        scores = _score(n, k, *whole)
        scores[(n < least) | (n >= most) | (k < LEAST_HITS) | (scores <= 0)] = -inf
        return scores

    def _counted(self, codes: Codes) -> Floats:
        """Returns how many rows each candidate holds."""
        size = len(self._names) * self._width
        counts = np.bincount(codes.ravel(), minlength=size).reshape(-1, self._width)
        upto = np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(axis=1)], axis=1)
        held: Floats = upto[self._feature, self._high + 1] - upto[self._feature, self._low]
        return held


class _Coded(NamedTuple):
    """One feature."""

    # A number for each row.
    codes: Codes
    # The ranges of these numbers that are candidates.
    ranges: list[tuple[int, int]]
    # The last of the numbers that are in the order of the values; -1 if none are.
    last: int


def _coded(values: Values, half: Flags) -> _Coded:
    if values.dtype.kind != "f":
        levels, codes, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
        common = np.sort(np.argsort(-counts, kind="stable")[:LEVELS])
        # All rare levels share the number after the common ones.
        renumbered = np.full(len(levels), len(common), np.intp)
        renumbered[common] = np.arange(len(common))
        return _Coded(renumbered[codes.reshape(-1)], [(code, code) for code in range(len(common))], -1)
    missing = np.isnan(values)
    known = values[half & ~missing]
    percentiles = np.quantile(known, np.arange(1, 100) / 100, method="inverted_cdf") if len(known) else known
    edges = np.unique(percentiles)
    last = len(edges)
    codes = np.where(missing, last + 1, np.searchsorted(edges, values, side="right")).astype(np.intp)
    begins = [0, *(np.searchsorted(edges, np.unique(percentiles[9::10])) + 1).tolist()]
    ends = [*(begin - 1 for begin in begins[1:]), last]
    ranges = [(low, high) for at, low in enumerate(begins) for high in ends[at:] if (low, high) != (0, last)]
    return _Coded(codes, [*ranges, (last + 1, last + 1)], last)


def _score(n: Floats, k: Floats, total: int, hits: int) -> Floats:
    """Returns the likelihood ratio of two rates, inside and outside, to one; negative where the one inside is less."""
    inside, outside, rate = _share(k, n), _share(hits - k, total - n), hits / total
    ratio = _times_log(k, inside / rate) + _times_log(n - k, (1 - inside) / (1 - rate) if rate < 1 else n)
    ratio += _times_log(hits - k, outside / rate)
    ratio += _times_log(total - n - hits + k, (1 - outside) / (1 - rate) if rate < 1 else n)
    return np.where(inside > rate, ratio, -np.abs(ratio))


def _share(part: Floats, whole: Floats) -> Floats:
    result: Floats = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return result


def _times_log(count: Floats, ratio: Floats) -> Floats:
    """Returns count * log(ratio), 0 where the count is."""
    logs: Floats = np.log(ratio, out=np.zeros_like(ratio), where=(count > 0) & (ratio > 0))
    return count * logs


def _hypergeometric(total: int, hits: int, drawn: int, least: int) -> float:
    """Returns the probability of at least so many hits among the drawn, if chance alone drew them."""
    if least <= 0:
        return 1.0
    facts = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    x = np.arange(least, min(hits, drawn) + 1)
    x = x[drawn - x <= total - hits]

    def choose(n: int, k: Codes | int) -> Floats:
        ways: Floats = facts[n] - facts[k] - facts[n - k]
        return ways

    return min(1.0, float(np.exp(choose(hits, x) + choose(total - hits, drawn - x) - choose(total, drawn)).sum()))


def shares(segment: Segment, differ: Flags, weights: Floats) -> Shares:
    """Returns how much a segment holds; `weights` say how many rows each one stands for."""
    inside, hits = segment.rows, weights * differ
    held, outside = float(weights[inside].sum()), float(weights[~inside].sum())
    return Shares(
        rows=held / float(weights.sum()),
        differing=float(hits[inside].sum() / hits.sum()),
        rate=float(hits[inside].sum()) / held,
        rate_outside=float(hits[~inside].sum()) / outside if outside else 0.0,
    )
