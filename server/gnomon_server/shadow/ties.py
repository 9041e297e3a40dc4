"""Ties: labels that differ although the model finds both classes equally likely."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators import Flags


def tied(
    labels: tuple[Array, Array],
    probabilities: tuple[Array | None, Array | None],
    classes: Mapping[str, int],
    tie_eps: float,
) -> Flags:
    """Returns bool[B]: whether the two labels of a row are within `tie_eps` in either side's probabilities.

    Each pair is (primary, shadow): labels [B] or [B, 1], probabilities [B, C] or None where a side has none. `classes`
    maps a label's text to its column; without it an integer or boolean label is its own column. A label that has no
    column is tied with nothing.
    """
    first, second = (_columns(side, classes) for side in labels)
    result = np.zeros(len(first), np.bool_)
    for side in probabilities:
        if side is not None and side.ndim == 2 and side.dtype.kind == "f" and len(side) == len(first):
            result |= _near(side, first, second, tie_eps)
    return result


def _near(probabilities: Array, first: NDArray[np.int64], second: NDArray[np.int64], tie_eps: float) -> Flags:
    width = probabilities.shape[1]
    known = (first >= 0) & (first < width) & (second >= 0) & (second < width)
    rows = np.flatnonzero(known)
    one, other = (probabilities[rows, column[rows]].astype(np.float64) for column in (first, second))
    result = np.zeros(len(first), np.bool_)
    # Two infinities differ by NaN, which is no tie.
    with np.errstate(invalid="ignore"):
        result[rows] = np.abs(one - other) <= tie_eps
    return result


def _columns(labels: Array, classes: Mapping[str, int]) -> NDArray[np.int64]:
    """Returns the column of each label, -1 where it has none."""
    flat = labels.reshape(-1)
    if classes:
        return np.array([classes.get(str(label), -1) for label in flat.tolist()], np.int64)
    if flat.dtype.kind in "iub":
        return flat.astype(np.int64)
    return np.full(len(flat), -1, np.int64)
