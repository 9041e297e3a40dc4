"""Rows of class probabilities: tv, js_divergence, js_distance, hellinger, max_abs.

A row that is none, in either array, diverges by 1: one that is not finite, has an entry below 0 or sums to another
number than 1, by more than arithmetic explains. 0 always means that both rows are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Flags, Floats, doubles

# What arithmetic may leave a row of probabilities off by.
LEAST: Final = -1e-6
SUM_TOLERANCE: Final = 1e-3


def tv(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns the total variation distance, 1/2 sum |p - q|: the share of probability that moved; 1 is all of it."""
    return _measured(primary, shadow, lambda p, q: np.abs(p - q).sum(axis=1) / 2)


def max_abs(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns the largest difference of one class, max |p - q|; 1 means that a certain class became impossible."""
    return _measured(primary, shadow, lambda p, q: np.abs(p - q).max(axis=1, initial=0))


def js_divergence(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001
    """Returns the Jensen-Shannon divergence in bits (Lin 1991); 1 means that no class is possible in both."""
    return _measured(primary, shadow, _jensen_shannon)


def js_distance(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001
    """Returns the root of the Jensen-Shannon divergence, which is a metric (Endres and Schindelin 2003)."""
    return _measured(primary, shadow, lambda p, q: np.sqrt(_jensen_shannon(p, q)))


def hellinger(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns sqrt(1 - sum sqrt(p q)) (Hellinger 1909); 1 means that no class is possible in both."""

    def measure(p: Floats, q: Floats) -> Floats:
        alike = np.sqrt(_normal(p) * _normal(q)).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(0.0, 1 - alike)), np.float64)

    return _measured(primary, shadow, measure)


def are_probabilities(rows: Floats) -> Flags:
    """Returns bool[B]: which rows of [B, C] are probabilities."""
    # Infinite and NaN rows fail the sum, but inf - inf would warn on the way.
    finite = np.isfinite(rows)
    if not finite.all():
        rows = np.where(finite, rows, -1.0)
    flags: Flags = (rows >= LEAST).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE)
    return flags


def _measured(primary: Array, shadow: Array, measure: Callable[[Floats, Floats], Floats]) -> Floats:
    p, q = doubles(primary), doubles(shadow)
    valid = are_probabilities(p) & are_probabilities(q)
    if not valid.all():
        p[~valid], q[~valid] = 0, 0
    return np.where(valid, np.minimum(measure(p, q), 1.0), 1.0)


def _jensen_shannon(p: Floats, q: Floats) -> Floats:
    p, q = _normal(p), _normal(q)
    middle = (p + q) / 2
    return np.maximum(0.0, _relative_entropy(p, middle) / 2 + _relative_entropy(q, middle) / 2)


def _relative_entropy(p: Floats, reference: Floats) -> Floats:
    # The half of the smallest float is 0, which no probability may be divided by.
    ratio = np.divide(p, reference, out=np.ones_like(p), where=(p > 0) & (reference > 0))
    return np.asarray((p * np.log2(ratio)).sum(axis=1), np.float64)


def _normal(p: Floats) -> Floats:
    """Returns rows without the negative rest that arithmetic left, so that they sum to 1; rows of zeros stay so."""
    p = np.maximum(p, 0.0)
    total = p.sum(axis=1, keepdims=True)
    normal: Floats = np.divide(p, total, out=p, where=total > 0)
    return normal
