"""Vectors: cosine for embeddings, relative_l2 for any tensor of numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Flags, Floats, any_of, doubles, unequal


def cosine(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns (1 - cos) / 2 of the angle between two rows (Salton and McGill 1983).

    0: the same direction; 0.5: orthogonal; 1: opposite. Two vectors of zeros have the same direction, one has none and
    diverges by 1, and so does a row that is not finite.
    """
    a, b, finite = _scaled(primary, shadow)
    norm_a, norm_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    norms = norm_a * norm_b
    cos = np.divide((a * b).sum(axis=1), norms, out=np.zeros_like(norms), where=norms > 0)
    result = (1 - np.clip(cos, -1.0, 1.0)) / 2
    zeros = (norm_a == 0).astype(int) + (norm_b == 0)
    return np.where(~finite | (zeros == 1), 1.0, np.where(zeros == 2, 0.0, result))


def relative_l2(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001
    """Returns |a - b| / (|a| + |b|) of two rows in Euclidean norms, which lies in [0, 1] by the triangle inequality.

    0: equal; 1: opposite directions, or exactly one row is zero. A row that is not finite in one of them diverges by 1,
    and in both unless they are equal.
    """
    a, b, finite = _scaled(primary, shadow, together=True)
    total = np.linalg.norm(a, axis=1) + np.linalg.norm(b, axis=1)
    ratio = np.divide(np.linalg.norm(a - b, axis=1), total, out=np.zeros_like(total), where=total > 0)
    return np.where(finite, np.clip(ratio, 0.0, 1.0), any_of(unequal(primary, shadow)))


def _scaled(primary: Array, shadow: Array, together: bool = False) -> tuple[Floats, Floats, Flags]:
    """Returns both arrays with rows of numbers up to 1, whose squares neither overflow nor vanish, and the finite rows.

    Each row is scaled by itself, or the two of a pair `together`. Rows that are not finite are zeros.
    """
    a, b = doubles(primary), doubles(shadow)
    finite = np.logical_and(np.isfinite(a).all(axis=1), np.isfinite(b).all(axis=1))
    a[~finite], b[~finite] = 0, 0
    most_a, most_b = (np.abs(side).max(axis=1, initial=0.0, keepdims=True) for side in (a, b))
    if together:
        most_a = most_b = np.maximum(most_a, most_b)
    return a / np.where(most_a > 0, most_a, 1.0), b / np.where(most_b > 0, most_b, 1.0), finite
