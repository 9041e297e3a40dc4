"""Comparators: how far one output of a shadow is from its primary's, row by row.

To add one: a function of (primary, shadow, parameters) and one line in COMPARATORS. Both arrays have the same shape
[B, ...] and the same kind of element; the result is float64[B], every value in [0, 1]. Two NaN are equal, -0 equals 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Comparator = Callable[[Array, Array, Mapping[str, float]], Floats]

# Class probabilities this near each other are a tie: float32 conversions of a forest differ by 4e-7 in them.
TIE_EPS: Final = 1e-6
RTOL: Final = 1e-3
ATOL: Final = 1e-6
# What arithmetic may leave a row of probabilities off by.
LEAST_PROBABILITY: Final = -1e-6
SUM_TOLERANCE: Final = 1e-3


def divergence(comparator: str, primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns the divergence of each row; 1 for all of them where the shape or the kind of element differs."""
    if primary.shape != shadow.shape or kind_of(primary.dtype) != kind_of(shadow.dtype):
        return np.ones(len(primary))
    return COMPARATORS[comparator](primary, shadow, parameters)


def kind_of(dtype: np.dtype[Any]) -> str:
    """Returns the kind of an element: floats compare with each other whatever their width, and so do integers."""
    return {"u": "i", "S": "O", "U": "O", "T": "O"}.get(dtype.kind, dtype.kind)


def exact(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns 1 for a row in which any element differs, else 0."""
    a, b = _flat(primary), _flat(shadow)
    differ: Flags = a != b
    if a.dtype.kind == "f":
        differ &= ~(np.isnan(a) & np.isnan(b))
    return np.asarray(differ.any(axis=1), np.float64)


def argmax(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns 1 for a row whose greatest element is elsewhere, unless the two are within `tie_eps` in either array.

    A row with a value that is not finite in both must be equal throughout; in one of them, it differs.
    """
    tie_eps = parameters.get("tie_eps", TIE_EPS)
    a, b = _flat(primary).astype(np.float64), _flat(shadow).astype(np.float64)
    if not a.size:
        return np.zeros(len(a))
    finite_a, finite_b = np.isfinite(a).all(axis=1), np.isfinite(b).all(axis=1)
    comparable = finite_a & finite_b
    unequal = exact(a, b, {}) > 0
    a[~comparable], b[~comparable] = 0, 0
    i, j, rows = a.argmax(axis=1), b.argmax(axis=1), np.arange(len(a))
    differ = i != j
    if tie_eps > 0:
        differ &= (a[rows, i] - a[rows, j] > tie_eps) & (b[rows, j] - b[rows, i] > tie_eps)
    # Where exactly one row is finite, it is unequal to the other as well.
    return np.asarray(np.where(comparable, differ, unequal), np.float64)


def tv(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns the total variation distance of two rows of probabilities, 1/2 sum |p - q|; 1 if either is none."""
    return _distance(primary, shadow, lambda difference: difference.sum(axis=1) / 2)


def max_abs(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns the largest difference of two rows of probabilities, max |p - q|; 1 if either is none."""
    return _distance(primary, shadow, lambda difference: difference.max(axis=1, initial=0))


def isclose(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns 1 for a row with any element off by more than atol + rtol |primary|; the primary is the reference."""
    rtol, atol = parameters.get("rtol", RTOL), parameters.get("atol", ATOL)
    a, b = _flat(primary).astype(np.float64), _flat(shadow).astype(np.float64)
    close: Flags = np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
    return np.asarray(~close.all(axis=1), np.float64)


COMPARATORS: Final[dict[str, Comparator]] = {
    # Labels: ties between classes are forgiven where the probabilities are at hand (see ties).
    "label": exact,
    "argmax": argmax,
    "tv": tv,
    "max_abs": max_abs,
    "isclose": isclose,
    "exact": exact,
}
# Those that take text.
OF_TEXT: Final = frozenset({"label", "exact"})


def _flat(array: Array) -> Array:
    """Returns [B, ...] as [B, P]; -1 for P would be ambiguous where the array is empty."""
    return array.reshape(len(array), prod(array.shape[1:]))


def _distance(primary: Array, shadow: Array, measure: Callable[[Floats], Floats]) -> Floats:
    p, q = _flat(primary).astype(np.float64), _flat(shadow).astype(np.float64)
    valid = _are_probabilities(p) & _are_probabilities(q)
    if not valid.all():
        p[~valid], q[~valid] = 0, 0
    return np.where(valid, np.minimum(measure(np.abs(p - q)), 1.0), 1.0)


def _are_probabilities(rows: Floats) -> Flags:
    # Infinite and NaN rows fail the sum, but inf - inf would warn on the way.
    finite = np.isfinite(rows)
    if not finite.all():
        rows = np.where(finite, rows, -1.0)
    flags: Flags = (rows >= LEAST_PROBABILITY).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE)
    return flags
