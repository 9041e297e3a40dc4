"""The vectorised comparators beside slow ones, written from the definitions alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.shadow.comparators import divergence

# Few different ids and letters, so that lists and words meet.
words = st.text("abc", max_size=12)


def lists(k: int) -> st.SearchStrategy[list[int]]:
    return st.permutations(range(2 * k)).map(lambda ids: ids[:k])


def rows_of_lists(least: int = 1) -> st.SearchStrategy[tuple[list[list[int]], list[list[int]]]]:
    def rows(k: int) -> st.SearchStrategy[tuple[list[list[int]], list[list[int]]]]:
        many = st.lists(st.tuples(lists(k), lists(k)), min_size=1, max_size=4)
        return many.map(lambda pairs: ([a for a, _ in pairs], [b for _, b in pairs]))

    return st.integers(least, 6).flatmap(rows)


@st.composite
def distributions(draw: st.DrawFn, width: int = 4) -> list[float]:
    weights = draw(st.lists(st.integers(0, 20), min_size=width, max_size=width).filter(any))
    return [weight / sum(weights) for weight in weights]


def entropy(p: Sequence[float]) -> float:
    return -sum(x * math.log2(x) for x in p if x > 0)


def jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    # By entropies, where the comparator sums relative entropies.
    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return max(0.0, entropy(middle) - (entropy(p) + entropy(q)) / 2)


def hellinger(p: Sequence[float], q: Sequence[float]) -> float:
    return math.sqrt(sum((math.sqrt(x) - math.sqrt(y)) ** 2 for x, y in zip(p, q, strict=True)) / 2)


def total_variation(p: Sequence[float], q: Sequence[float]) -> float:
    # The largest difference in the probability of any event.
    return max(
        sum(p[i] - q[i] for i in event) for size in range(len(p) + 1) for event in combinations(range(len(p)), size)
    )


@pytest.mark.parametrize(
    ("comparator", "reference"),
    [
        ("tv", total_variation),
        ("hellinger", hellinger),
        ("js_divergence", jensen_shannon),
        ("js_distance", lambda p, q: math.sqrt(jensen_shannon(p, q))),
        ("max_abs", lambda p, q: max(abs(x - y) for x, y in zip(p, q, strict=True))),
    ],
)
@given(pairs=st.lists(st.tuples(distributions(), distributions()), min_size=1, max_size=4))
def test_distances_of_probabilities_follow_their_definitions(
    comparator: str,
    reference: Callable[[Sequence[float], Sequence[float]], float],
    pairs: list[tuple[list[float], list[float]]],
) -> None:
    primary, shadow = np.array([p for p, _ in pairs]), np.array([q for _, q in pairs])
    # A root makes much of what rounding leaves of nothing.
    expected = pytest.approx([reference(p, q) for p, q in pairs], abs=1e-7)
    assert divergence(comparator, primary, shadow, {}) == expected


def overlap(a: Sequence[int], b: Sequence[int]) -> float:
    return 1 - len(set(a) & set(b)) / len(a)


def rank_biased(a: Sequence[int], b: Sequence[int]) -> float:
    p, k = 0.9, len(a)
    shared = [len(set(a[:depth]) & set(b[:depth])) for depth in range(1, k + 1)]
    series = sum(x / depth * p**depth for depth, x in enumerate(shared, 1))
    return 1 - (shared[-1] / k * p**k + (1 - p) / p * series)


def kendall(a: Sequence[int], b: Sequence[int]) -> float:
    """Every pair by the four cases of Fagin, Kumar and Sivakumar."""
    penalty = 0.0
    for i, j in combinations(sorted(set(a) | set(b)), 2):
        in_a, in_b = {i, j} & set(a), {i, j} & set(b)
        if len(in_a) == len(in_b) == 2:
            penalty += (a.index(i) < a.index(j)) != (b.index(i) < b.index(j))
        elif len(in_a) + len(in_b) == 3:
            whole, (present,) = (a, in_b) if len(in_a) == 2 else (b, in_a)
            (absent,) = {i, j} - {present}
            penalty += whole.index(absent) < whole.index(present)
        elif in_a and in_b:
            penalty += 1
        else:
            penalty += 0.5
    k = len(a)
    return penalty / (k * k + k * (k - 1) / 2)


@pytest.mark.parametrize(
    ("comparator", "reference"), [("topk", overlap), ("rbo", rank_biased), ("kendall_topk", kendall)]
)
@given(rows=rows_of_lists())
def test_distances_of_rankings_follow_their_definitions(
    comparator: str,
    reference: Callable[[Sequence[int], Sequence[int]], float],
    rows: tuple[list[list[int]], list[list[int]]],
) -> None:
    expected = [reference(a, b) for a, b in zip(*rows, strict=True)]
    assert divergence(comparator, np.array(rows[0]), np.array(rows[1]), {}) == pytest.approx(expected, abs=1e-12)
    as_text = [np.array(side).astype(str).astype(object) for side in rows]
    assert divergence(comparator, as_text[0], as_text[1], {}) == pytest.approx(expected, abs=1e-12)


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_the_edit_distance_is_levenshteins(pairs: list[tuple[str, str]]) -> None:
    primary, shadow = (np.array(side, object) for side in zip(*pairs, strict=True))
    expected = [levenshtein(a, b) / max(len(a), len(b), 1) for a, b in pairs]
    assert divergence("edit", primary, shadow, {}) == pytest.approx(expected)


@given(st.text("abcdef", min_size=60, max_size=150), st.text("abcdef", min_size=60, max_size=150))
def test_the_edit_distance_holds_beyond_a_machine_word(a: str, b: str) -> None:
    result = divergence("edit", np.array([a], object), np.array([b], object), {})
    assert result == pytest.approx([levenshtein(a, b) / max(len(a), len(b))])


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-8, 8))
def test_ulps_are_counted_as_neighbours_of_a_float(value: float, steps: int) -> None:
    other = np.float32(value)
    with np.errstate(over="ignore"):
        for _ in range(abs(steps)):
            other = np.nextafter(other, np.float32(math.copysign(math.inf, steps)), dtype=np.float32)
    if not np.isfinite(other):
        return
    # -0 and 0 are one float, so that crossing from one to the other is no step.
    assert divergence("ulp", np.array([value], np.float32), np.array([other]), {"max_ulp": abs(steps)}) == [0]
    if steps:
        assert divergence("ulp", np.array([value], np.float32), np.array([other]), {"max_ulp": abs(steps) - 1}) == [1]


@given(st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6)), min_size=1))
def test_the_relative_distance_is_exact(pairs: list[tuple[int, int]]) -> None:
    expected = [float(Fraction(abs(a - b), abs(a) + abs(b))) if a or b else 0.0 for a, b in pairs]
    primary, shadow = (np.array(side, np.float64) for side in zip(*pairs, strict=True))
    assert divergence("relative", primary, shadow, {}) == pytest.approx(expected, rel=1e-12)
