from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators import COMPARATORS, divergence, unfit

NAN, INF = float("nan"), float("inf")
FLOATING = sorted(name for name, entry in COMPARATORS.items() if "f" in entry.kinds)
REQUIRED = {"scaled_abs": {"spread": 1.0}}
# Of which some values are none that they can take, even if both sides have them.
PARTICULAR = {"tv", "max_abs", "js_divergence", "js_distance", "hellinger", "cosine", "topk", "rbo", "kendall_topk"}


def text(*values: str) -> Array:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("comparator", "primary", "shadow", "expected"),
    [
        ("label", np.array([1, 2, 3]), np.array([1, 0, 3]), [0, 1, 0]),
        ("label", np.array([[1], [2]]), np.array([[1], [3]]), [0, 1]),
        ("label", np.array([1, 2], np.int32), np.array([1, 3], np.uint8), [0, 1]),
        ("label", np.array([True, False]), np.array([True, True]), [0, 1]),
        ("label", text("yes", "no"), text("yes", "Yes"), [0, 1]),
        ("label", np.zeros(0, np.int64), np.zeros(0, np.int64), []),
        # Any element of a row.
        ("exact", np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]]), [0, 1]),
        ("exact", np.array([NAN, NAN, 0.0, INF]), np.array([NAN, 1.0, -0.0, INF]), [0, 1, 0, 0]),
        ("exact", np.array([2**63], np.uint64), np.array([-(2**63)], np.int64), [1]),
        ("exact", np.zeros((2, 0)), np.zeros((2, 0)), [0, 0]),
        ("argmax", np.array([[0.1, 0.9], [0.6, 0.4]]), np.array([[0.2, 0.8], [0.4, 0.6]]), [0, 1]),
        # A tie in either array.
        ("argmax", np.array([[0.5, 0.5]]), np.array([[0.4, 0.6]]), [0]),
        ("argmax", np.array([[0.6, 0.4]]), np.array([[0.5, 0.5 + 1e-7]]), [0]),
        # Exactly one row not finite; both, and equal; both, and not equal.
        ("argmax", np.array([[NAN, 1.0]]), np.array([[0.0, 1.0]]), [1]),
        ("argmax", np.array([[INF, NAN]]), np.array([[INF, NAN]]), [0]),
        ("argmax", np.array([[INF, 0.0]]), np.array([[0.0, INF]]), [1]),
        ("argmax", np.zeros((2, 0)), np.zeros((2, 0)), [0, 0]),
        ("tv", np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [0.0, 1.0]]), [0.25, 1]),
        # No probabilities: not finite, negative, sum off.
        ("tv", np.array([[NAN, 1.0]]), np.array([[NAN, 1.0]]), [1]),
        ("tv", np.array([[-0.1, 1.1]]), np.array([[-0.1, 1.1]]), [1]),
        ("tv", np.array([[INF, -INF]]), np.array([[0.5, 0.5]]), [1]),
        ("tv", np.array([[0.5, 0.6]]), np.array([[0.5, 0.5]]), [1]),
        ("tv", np.array([[0.5, 0.5005]]), np.array([[0.5, 0.5]]), [0.00025]),
        ("max_abs", np.array([[0.5, 0.3, 0.2]]), np.array([[0.1, 0.6, 0.3]]), [0.4]),
        ("max_abs", np.array([[0.5, 0.6]]), np.array([[0.5, 0.6]]), [1]),
        ("isclose", np.array([1.0, 1.0]), np.array([1.0009, 1.002]), [0, 1]),
        ("isclose", np.array([[1.0, 2.0]]), np.array([[1.0, 3.0]]), [1]),
        ("isclose", np.array([NAN, NAN, INF, INF, -INF]), np.array([NAN, 0.0, INF, 1.0, INF]), [0, 1, 0, 1, 1]),
        # Widths of float compare with each other.
        ("isclose", np.array([0.1], np.float32), np.array([0.1], np.float64), [0]),
        # Symmetric; opposite signs and 0 beside another number are as far apart as can be.
        ("relative", np.array([1.0, 3.0, 0.0, -1.0, 0.0]), np.array([3.0, 1.0, 0.0, 1.0, 1e-300]), [0.5, 0.5, 0, 1, 1]),
        ("relative", np.array([1e308, INF, INF, NAN]), np.array([-1e308, INF, 1.0, NAN]), [1, 0, 1, 0]),
        ("relative", np.array([[1.0, 1.0]]), np.array([[1.0, 3.0]]), [0.5]),
        ("ulp", np.array([1.0, 1.0], np.float32), np.array([1 + 4 * 2**-23, 1 + 5 * 2**-23], np.float32), [0, 1]),
        ("ulp", np.array([0.0, 1.0, NAN, INF]), np.array([-0.0, -1.0, NAN, np.finfo(np.float64).max]), [0, 1, 0, 1]),
        ("ulp", np.array([1.0], np.float32), np.array([1.0], np.float64), [1]),
        (
            "cosine",
            np.array([[1.0, 0], [1, 0], [1, 0], [2, 2]]),
            np.array([[3.0, 0], [0, 1], [-1, 0], [1, 1]]),
            [0, 0.5, 1, 0],
        ),
        ("cosine", np.array([[0.0, 0], [0, 0], [NAN, 1]]), np.array([[0.0, 0], [1, 0], [NAN, 1]]), [0, 1, 1]),
        # Neither do squares overflow nor vanish.
        (
            "cosine",
            np.array([[1e200, 0], [1e-200, 0]]),
            np.array([[1e200, 1e200], [0, 1e-200]]),
            [(1 - 0.5**0.5) / 2, 0.5],
        ),
        ("relative_l2", np.array([[3.0, 4.0], [1, 0], [0, 0]]), np.array([[3.0, 4.0], [-1, 0], [0, 0]]), [0, 1, 0]),
        (
            "relative_l2",
            np.array([[1e300, 0.0], [INF, 0], [INF, 0]]),
            np.array([[3e300, 0.0], [INF, 0], [1, 0]]),
            [0.5, 0, 1],
        ),
        ("topk", np.array([[1, 2, 3]]), np.array([[3, 1, 9]]), [1 / 3]),
        ("topk", text("a", "b").reshape(1, 2), text("b", "a").reshape(1, 2), [0]),
        ("topk", np.array([[1, 2]], np.int32), np.array([[2, 1]], np.int64), [0]),
        # An id named twice; scores are ranked, and NaN is no score.
        ("topk", np.array([[1, 1]]), np.array([[1, 1]]), [1]),
        ("rbo", np.array([[0.9, 0.5, 0.1]]), np.array([[9.0, 5.0, 1.0]]), [0]),
        ("rbo", np.array([[0.9, NAN]]), np.array([[0.9, NAN]]), [1]),
        ("kendall_topk", np.array([[1, 2, 3]]), np.array([[3, 2, 1]]), [3 / 12]),
        ("kendall_topk", np.array([[1, 2, 3]]), np.array([[4, 5, 6]]), [1]),
        ("topk", np.zeros((2, 0), np.int64), np.zeros((2, 0), np.int64), [0, 0]),
        ("rbo", np.zeros((2, 0), np.int64), np.zeros((2, 0), np.int64), [0, 0]),
        ("kendall_topk", np.zeros((2, 0), np.int64), np.zeros((2, 0), np.int64), [0, 0]),
        ("text", text("Caf\u00e9  au lait\n", "STRASSE", "a b"), text("cafe\u0301 au LAIT", "straße", "ab"), [0, 0, 1]),
        ("edit", text("kitten", "", "abc", "same"), text("sitting", "", "", "same"), [3 / 7, 0, 1, 0]),
        # A difference beyond what is looked at is at least one character.
        ("edit", text("x" * 2500), text("x" * 2499 + "y"), [1 / 2500]),
        (
            "mask",
            np.array([[True, True, False], [False, False, False]]),
            np.array([[True, False, True], [False] * 3]),
            [2 / 3, 0],
        ),
        ("hamming", np.array([[1, 2, 3, 4]]), np.array([[1, 2, 0, 0]]), [0.5]),
        ("js_divergence", np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]]), [1, 0]),
        ("js_distance", np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]), [0.3112781244591328**0.5]),
        (
            "hellinger",
            np.array([[1.0, 0.0], [1.0, 0.0]]),
            np.array([[0.0, 1.0], [0.5, 0.5]]),
            [1, (1 - 0.5**0.5) ** 0.5],
        ),
        # Another shape or kind of element: 1 for every row.
        ("tv", np.full((2, 2), 0.5), np.full((2, 4), 0.25), [1, 1]),
        ("label", np.array([1, 2]), np.array([[1], [2]]), [1, 1]),
        ("label", np.array([1, 2]), np.array([1.0, 2.0]), [1, 1]),
        ("label", np.array([1, 0]), np.array([True, False]), [1, 1]),
        ("label", np.array([1]), text("1"), [1]),
    ],
)
def test_a_comparator_gives_one_divergence_a_row(
    comparator: str, primary: Array, shadow: Array, expected: list[float]
) -> None:
    result = divergence(comparator, primary, shadow, {})
    assert result.dtype == np.float64
    assert result.shape == (len(primary),)
    assert result == pytest.approx(expected)


def test_isclose_measures_against_the_primary() -> None:
    small, large = np.array([10.0]), np.array([11.0])
    # 1 is more than 9.5 % of 10, less than 9.5 % of 11.
    parameters = {"rtol": 0.095, "atol": 0.0}
    assert divergence("isclose", small, large, parameters) == [1]
    assert divergence("isclose", large, small, parameters) == [0]


def test_without_a_tie_width_any_other_argmax_differs() -> None:
    tied, clear = np.array([[0.5, 0.5]]), np.array([[0.4, 0.6]])
    assert divergence("argmax", tied, clear, {"tie_eps": 0.0}) == [1]


floats = hnp.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(0, 4)), elements=st.floats())


@given(floats, st.data(), st.sampled_from(FLOATING))
def test_every_divergence_lies_between_0_and_1(primary: Array, data: st.DataObject, comparator: str) -> None:
    shadow = data.draw(hnp.arrays(np.float64, primary.shape, elements=st.floats()))
    with np.errstate(over="ignore"):
        result = divergence(comparator, primary, shadow, REQUIRED.get(comparator, {}))
    assert ((result >= 0) & (result <= 1)).all()


@given(floats, st.sampled_from(sorted(set(FLOATING) - PARTICULAR)))
def test_what_is_equal_does_not_diverge(primary: Array, comparator: str) -> None:
    assert not divergence(comparator, primary, primary.copy(), REQUIRED.get(comparator, {})).any()


def test_scaled_abs_counts_in_spreads_of_the_reference() -> None:
    primary, shadow = np.array([1.0, 1.0, INF, -1e308]), np.array([2.0, 99.0, INF, 1e308])
    assert divergence("scaled_abs", primary, shadow, {"spread": 4.0}) == pytest.approx([0.25, 1, 0, 1])


def test_only_the_first_places_of_a_ranking_count_if_so_declared() -> None:
    primary, shadow = np.array([[1, 2, 3, 4]]), np.array([[1, 2, 4, 3]])
    for comparator in ("rbo", "kendall_topk"):
        assert divergence(comparator, primary, shadow, {"k": 2}) == pytest.approx([0])
        assert divergence(comparator, primary, shadow, {}) > 0


@pytest.mark.parametrize(
    ("comparator", "primary", "expected"),
    [
        ("tv", np.array([[0.5, 0.5], [0.5, 0.9], [NAN, 1.0]]), 2),
        ("isclose", np.array([[1.0, NAN], [1.0, INF]]), 1),
        ("exact", np.array([1, 2]), 0),
        ("edit", text("a"), 0),
    ],
)
def test_rows_that_a_comparator_cannot_take_are_counted(comparator: str, primary: Array, expected: int) -> None:
    assert unfit(comparator, primary, divergence(comparator, primary, primary, {})) == expected
