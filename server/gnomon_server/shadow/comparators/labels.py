"""Labels and other values that are equal or not: exact, argmax, hamming, mask."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Floats, any_of, doubles, flat, unequal


def exact(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns 0 for a row in which every element is equal, 1 for any other."""
    return any_of(unequal(primary, shadow))


def argmax(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns 0 for a row whose greatest element is in the same place, 1 where it is elsewhere.

    It is in the same place, too, if the two are within `tie_eps` in either array. A row with a value that is not finite
    in both must be equal throughout; in one of them, it differs.
    """
    a, b = doubles(primary), doubles(shadow)
    if not a.size:
        return np.zeros(len(a))
    comparable = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    # Where exactly one row is finite, it is unequal to the other as well.
    elsewhere = any_of(unequal(a, b)) > 0
    a[~comparable], b[~comparable] = 0, 0
    i, j, rows = a.argmax(axis=1), b.argmax(axis=1), np.arange(len(a))
    differ = i != j
    if parameters["tie_eps"] > 0:
        differ &= np.minimum(a[rows, i] - a[rows, j], b[rows, j] - b[rows, i]) > parameters["tie_eps"]
    return np.asarray(np.where(comparable, differ, elsewhere), np.float64)


def hamming(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns the share of a row's elements that differ: 0 none, 1 all (Hamming 1950, divided by the length)."""
    differ = unequal(primary, shadow)
    return np.asarray(differ.sum(axis=1) / max(1, differ.shape[1]), np.float64)


def mask(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns how little two masks overlap, 1 - |A and B| / |A or B| (Jaccard 1901).

    0: the same elements are set, or none in either; 1: no element is set in both. Every number but 0 is set.
    """
    a, b = flat(primary).astype(np.bool_), flat(shadow).astype(np.bool_)
    union = (a | b).sum(axis=1)
    return np.where(union > 0, 1 - (a & b).sum(axis=1) / np.maximum(union, 1), 0.0)
