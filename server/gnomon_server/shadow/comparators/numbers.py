"""Numbers: isclose, relative, scaled_abs, ulp.

A row with several elements is as far off as its worst one. Two NaN are equal and so are equal infinities; anything else
that is not finite in one of the two diverges by 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Floats, any_of, doubles, flat, magnitudes, unequal, worst

# The integer as wide as a float, which has the float's order where it is positive.
BITS: Final[dict[int, np.dtype[Any]]] = {2: np.dtype(np.int16), 4: np.dtype(np.int32), 8: np.dtype(np.int64)}


def isclose(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns 0 for a row in which every element is within atol + rtol |primary|, else 1; the primary is the reference.

    As numpy.isclose(shadow, primary, equal_nan=True).
    """
    close = np.isclose(
        doubles(shadow), doubles(primary), rtol=parameters["rtol"], atol=parameters["atol"], equal_nan=True
    )
    return any_of(~close)


def relative(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns |a - b| / (|a| + |b|) (Lance and Williams 1966).

    0: equal; 1: of opposite signs, or exactly one is 0. Of two that differ little it is half their relative difference.
    """
    a, b = doubles(primary), doubles(shadow)
    # Halved first, so that no sum overflows; an infinity here is settled by `magnitudes`.
    with np.errstate(invalid="ignore"):
        total = np.abs(a) / 2 + np.abs(b) / 2
        ratio = np.divide(np.abs(a / 2 - b / 2), total, out=np.zeros_like(a), where=total > 0)
    return worst(magnitudes(a, b, ratio))


def scaled_abs(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns min(1, |a - b| / spread), `spread` being that of the reference's outputs: their standard deviation, say.

    0: equal; 1: apart by the spread or more.
    """
    a, b = doubles(primary), doubles(shadow)
    with np.errstate(invalid="ignore", over="ignore"):
        return worst(magnitudes(a, b, np.abs(a - b) / parameters["spread"]))


def ulp(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns 0 for a row in which at most `max_ulp` floats lie between the two of every element, else 1.

    Floats of one width only: any others diverge by 1. The distance is that of the ordered integers of Goldberg 1991.
    """
    if primary.dtype != shadow.dtype:
        return np.ones(len(primary))
    a, b = flat(primary), flat(shadow)
    steps = _steps(a, b)
    finite = np.isfinite(a) & np.isfinite(b)
    return any_of(unequal(a, b) & ~(finite & (steps <= parameters["max_ulp"])))


def _steps(a: Array, b: Array) -> NDArray[np.uint64]:
    """Returns how many floats lie between two; modulo 2^64, which no distance reaches."""
    one, other = _ordered(a), _ordered(b)
    return np.subtract(np.maximum(one, other).view(np.uint64), np.minimum(one, other).view(np.uint64))


def _ordered(array: Array) -> NDArray[np.int64]:
    """Returns integers in the order of the floats; -0 and 0 are the same."""
    kind = BITS[array.dtype.itemsize]
    bits = np.ascontiguousarray(array).view(kind).astype(np.int64)
    magnitude = bits & np.iinfo(kind).max
    ordered: NDArray[np.int64] = np.where(bits >= 0, magnitude, -magnitude)
    return ordered
