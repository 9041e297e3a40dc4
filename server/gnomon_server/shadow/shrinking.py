"""Shrinking: the fewest features in which a divergent row must differ from a typical one to diverge still.

Delta debugging by minimisation: A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
Transactions on Software Engineering 28(2), 2002, algorithm ddmin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array

# Returns the number of the first of some sets of features that diverges, None if none does.
First = Callable[[Sequence[tuple[int, ...]]], int | None]
# Up to so many features, each is tried by itself before anything else.
SINGLES = 256


@dataclass(frozen=True)
class Shrunk:
    """What a search found."""

    features: tuple[int, ...]
    # Whether each smaller set by one feature was tried, and agrees.
    minimal: bool


def shrink(features: Sequence[int], first: First, most: int) -> Shrunk:
    """Returns a part of `features`, all of which diverge, that diverges still; tries at most `most` sets.

    The empty set is taken to agree. The same features and answers give the same result.
    """
    kept, parts, spent = tuple(features), 2, 0
    if len(kept) <= min(SINGLES, most):
        spent = len(kept)
        if (single := first([(feature,) for feature in kept])) is not None:
            return Shrunk((kept[single],), minimal=True)
    while len(kept) > 1:
        chunks = _chunks(kept, parts)
        without = [tuple(feature for feature in kept if feature not in set(chunk)) for chunk in chunks]
        sets = [*chunks, *without] if parts > 2 else chunks
        spent += len(sets)
        if spent > most:
            return Shrunk(kept, minimal=False)
        found = first(sets)
        if found is not None:
            kept, parts = sets[found], 2 if found < len(chunks) else max(parts - 1, 2)
        elif parts >= len(kept):
            return Shrunk(kept, minimal=True)
        else:
            parts = min(2 * parts, len(kept))
    return Shrunk(kept, minimal=True)


def typical(rows: Mapping[str, Array]) -> dict[str, Array]:
    """Returns one row, of the first dimension of arrays with one row or more.

    Each feature has a value that occurs: the lower median of numbers that are, else the most frequent, of several the
    smallest.
    """
    return {name: _typical(array) for name, array in rows.items()}


def differing(one: Mapping[str, Array], other: Mapping[str, Array]) -> NDArray[np.bool_]:
    """Returns which features differ, bool[F], through all inputs in order; of one row each, NaN equals NaN."""
    return np.concatenate([_differ(array, other[name]).reshape(-1) for name, array in one.items()])


def mixed(base: Mapping[str, Array], row: Mapping[str, Array], sets: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Returns a row for each set: of `base`, but for the features in the set, which are of `row`."""
    chosen = np.zeros((len(sets), sum(array.size for array in base.values())), np.bool_)
    for number, features in enumerate(sets):
        chosen[number, list(features)] = True
    made, begin = {}, 0
    for name, array in base.items():
        mine = chosen[:, begin : begin + array.size].reshape((len(sets), *array.shape[1:]))
        made[name] = np.where(mine, row[name], array)
        begin += array.size
    return made


def _chunks(features: tuple[int, ...], parts: int) -> list[tuple[int, ...]]:
    bounds = [len(features) * part // parts for part in range(parts + 1)]
    return [features[begin:end] for begin, end in pairwise(bounds)]


def _typical(array: Array) -> Array:
    rows = array.reshape(len(array), -1)
    made = np.empty((1, rows.shape[1]), array.dtype)
    for column in range(rows.shape[1]):
        made[0, column] = _value(rows[:, column])
    return made.reshape((1, *array.shape[1:]))


def _value(values: Array) -> object:
    if values.dtype.kind not in "Ob":
        known = np.sort(values[~np.isnan(values)] if values.dtype.kind == "f" else values)
        return known[(len(known) - 1) // 2] if len(known) else values[0]
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[np.argmax(counts)]


def _differ(one: Array, other: Array) -> NDArray[np.bool_]:
    differ: NDArray[np.bool_] = np.asarray(one != other)
    return differ if one.dtype.kind != "f" else differ & ~(np.isnan(one) & np.isnan(other))
