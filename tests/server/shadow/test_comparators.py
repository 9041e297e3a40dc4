from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators import COMPARATORS, divergence

NAN, INF = float("nan"), float("inf")


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


@given(floats, st.data(), st.sampled_from(sorted(COMPARATORS)))
def test_every_divergence_lies_between_0_and_1(primary: Array, data: st.DataObject, comparator: str) -> None:
    shadow = data.draw(hnp.arrays(np.float64, primary.shape, elements=st.floats()))
    with np.errstate(over="ignore"):
        result = divergence(comparator, primary, shadow, {})
    assert ((result >= 0) & (result <= 1)).all()


@given(floats, st.sampled_from(["label", "argmax", "isclose", "exact"]))
def test_what_is_equal_does_not_diverge(primary: Array, comparator: str) -> None:
    assert not divergence(comparator, primary, primary.copy(), {}).any()
