"""Rankings: topk, rbo, kendall_topk.

A row is a list of ids, best first, or of scores, by which its columns are ranked: the first of equal ones comes first.
Only the first `k` places count; 0 means all of them. 0 is the same list (for topk: the same set), 1 are two lists that
share nothing. A row that names an id twice, or has a score that is NaN, diverges by 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Flags, Floats, flat

Places = NDArray[np.int64]


class _Lists(NamedTuple):
    """Two lists of each row against each other."""

    # int64[B, k]: the place in the shadow's list of the id at each place of the primary's, k where it is not there.
    forth: Places
    # The same from the shadow's list to the primary's.
    back: Places
    # bool[B]: whether both are lists without repetition.
    valid: Flags


def topk(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns the share of the first k that are not among the other's first k, in whatever order."""
    lists = _lists(primary, shadow, parameters)
    k = lists.forth.shape[1]
    return _valid(lists, 1 - (lists.forth < k).sum(axis=1) / max(1, k) if k else np.zeros(len(primary)))


def rbo(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns 1 - the extrapolated rank-biased overlap (Webber, Moffat and Zobel 2010, equation 32).

    A reader who goes on to the next place with probability `p` finds the top more important than the rest.
    """
    lists, p = _lists(primary, shadow, parameters), parameters["p"]
    count, k = lists.forth.shape
    if not k:
        return np.zeros(count)
    # The depth at which an id of both lists has been seen in both; k for the others, in a column that is cut off.
    depths = np.where(lists.forth < k, np.maximum(lists.forth, np.arange(k)), k)
    seen = np.bincount((depths + np.arange(count)[:, None] * (k + 1)).ravel(), minlength=count * (k + 1))
    overlap = seen.reshape(count, k + 1)[:, :k].cumsum(axis=1)
    t = np.arange(1, k + 1)
    alike = overlap[:, -1] / k * p**k + (1 - p) / p * (overlap / t * p**t).sum(axis=1)
    return _valid(lists, np.clip(1 - alike, 0.0, 1.0))


def kendall_topk(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns Kendall's distance of top-k lists, penalty 1/2 (Fagin, Kumar and Sivakumar 2003), over its most.

    Counted are the pairs of ids that the two lists put in different order; what a list leaves out comes after all that
    it has, and two that it leaves out are in no order, which counts half.
    """
    lists = _lists(primary, shadow, parameters)
    k = lists.forth.shape[1]
    common = lists.forth < k
    alone = k - common.sum(axis=1)
    pairs = _inversions(lists.forth, common) + _overtaken(common) + _overtaken(lists.back < k)
    pairs = pairs + alone**2 + alone * (alone - 1) / 2
    return _valid(lists, pairs / max(1.0, k**2 + k * (k - 1) / 2))


def _valid(lists: _Lists, measured: Floats) -> Floats:
    return np.where(lists.valid, measured, 1.0)


def _inversions(places: Places, common: Flags) -> Floats:
    """Returns how many pairs of common ids are in opposite order, place by place to keep the memory at [B, k]."""
    count = np.zeros(len(places))
    for later in range(1, places.shape[1]):
        before = common[:, :later] & (places[:, :later] > places[:, later : later + 1])
        count += before.sum(axis=1) * common[:, later]
    return count


def _overtaken(common: Flags) -> Floats:
    """Returns how many pairs of an id of one list only before one of both lists there are."""
    return np.asarray((np.cumsum(~common, axis=1) * common).sum(axis=1), np.float64)


def _lists(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> _Lists:
    a, b = flat(primary), flat(shadow)
    valid: Flags = np.ones(len(a), np.bool_)
    if a.dtype.kind == "f":
        valid = np.logical_not(np.isnan(a).any(axis=1) | np.isnan(b).any(axis=1))
        a, b = _ranked(a), _ranked(b)
    width = a.shape[1]
    k = min(int(parameters["k"]) or width, width)
    return _matched(*_numbered(a[:, :k], b[:, :k]), valid)


def _ranked(scores: Array) -> Array:
    """Returns the columns of each row from the greatest score to the least."""
    return np.argsort(-scores, axis=1, kind="stable")


def _numbered(a: Array, b: Array) -> tuple[Places, Places]:
    """Returns ids as numbers, equal ones for equal ids."""
    if a.dtype.kind != "O" and a.dtype == b.dtype:
        return a, b
    together = np.concatenate([a.astype(object), b.astype(object)])
    _, numbers = np.unique(together, return_inverse=True)
    numbers = numbers.reshape(together.shape)
    return numbers[: len(a)], numbers[len(a) :]


def _matched(a: Places, b: Places, valid: Flags) -> _Lists:
    """Finds the ids of both lists by sorting them together: equal ones lie side by side, the primary's first."""
    count, k = a.shape
    forth, back = np.full((count, k), k, np.int64), np.full((count, k), k, np.int64)
    together = np.concatenate([a, b], axis=1)
    order = np.argsort(together, axis=1, kind="stable")
    ordered = np.take_along_axis(together, order, axis=1)
    rows, at = np.nonzero(ordered[:, 1:] == ordered[:, :-1])
    first, second = order[rows, at], order[rows, at + 1]
    pairs = (first < k) & (second >= k)
    forth[rows[pairs], first[pairs]] = second[pairs] - k
    back[rows[pairs], second[pairs] - k] = first[pairs]
    # Two neighbours of one list are an id that it names twice.
    repeated = np.bincount(rows[~pairs], minlength=count) > 0
    return _Lists(forth, back, valid & ~repeated)
