"""Elements: what the comparators share in looking at two arrays [B, ...] of one shape."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def kind_of(dtype: np.dtype[Any]) -> str:
    """Returns the kind of an element: "b" boolean, "i" integer, "f" float, "O" text; widths do not matter."""
    return {"u": "i", "S": "O", "U": "O", "T": "O"}.get(dtype.kind, dtype.kind)


def flat(array: Array) -> Array:
    """Returns [B, ...] as [B, P]; -1 for P would be ambiguous where the array is empty."""
    return array.reshape(len(array), prod(array.shape[1:]))


def doubles(array: Array) -> Floats:
    """Returns [B, ...] as a new float64[B, P]."""
    return flat(array).astype(np.float64)


def unequal(primary: Array, shadow: Array) -> Flags:
    """Returns bool[B, P]: which elements differ. Two NaN are equal, and so are -0 and 0."""
    a, b = flat(primary), flat(shadow)
    differ: Flags = a != b
    if a.dtype.kind == "f":
        differ &= ~(np.isnan(a) & np.isnan(b))
    return np.asarray(differ, np.bool_)


def magnitudes(a: Floats, b: Floats, measured: Floats) -> Floats:
    """Returns what was measured, at most 1; 0 where two elements are equal, 1 where otherwise one is not finite."""
    differ = unequal(a, b)
    finite = np.isfinite(a) & np.isfinite(b)
    result: Floats = np.where(finite, np.minimum(measured, 1.0), 1.0)
    result[~differ] = 0.0
    return result


def worst(elements: Floats) -> Floats:
    """Returns float64[B]: the greatest of each row's elements, 0 for a row without any."""
    result: Floats = elements.max(axis=1, initial=0.0)
    return result


def any_of(elements: Flags) -> Floats:
    """Returns float64[B]: 1 for a row with any flag set, else 0."""
    return np.asarray(elements.any(axis=1), np.float64)
