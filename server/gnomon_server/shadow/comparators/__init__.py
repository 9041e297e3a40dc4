"""Comparators: how far one output of a shadow is from its primary's, row by row.

To add one: a function of (primary, shadow, parameters) and one line in COMPARATORS. Both arrays have the same shape
[B, ...] and the same kind of element, and `parameters` has every number that the line names; the result is float64[B],
every value in [0, 1], of which the docstring says what 0 and 1 mean. Two NaN are equal, and so are -0 and 0, unless the
docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Flags, Floats, doubles, flat, kind_of
from gnomon_server.shadow.comparators.labels import argmax, exact, hamming, mask
from gnomon_server.shadow.comparators.numbers import isclose, relative, scaled_abs, ulp
from gnomon_server.shadow.comparators.probabilities import (
    are_probabilities,
    hellinger,
    js_distance,
    js_divergence,
    max_abs,
    tv,
)
from gnomon_server.shadow.comparators.rankings import kendall_topk, rbo, topk
from gnomon_server.shadow.comparators.texts import edit, text
from gnomon_server.shadow.comparators.vectors import cosine, relative_l2

__all__ = ["COMPARATORS", "TIE_EPS", "Comparator", "Flags", "Floats", "Parameter", "divergence", "unfit"]

# Class probabilities this near each other are a tie: float32 conversions of a forest differ by 4e-7 in them.
TIE_EPS: Final = 1e-6
RTOL: Final = 1e-3
ATOL: Final = 1e-6
# Chance that a reader of a ranking goes on to the next place: nine places in ten seen are the first ten.
PERSISTENCE: Final = 0.9
MAX_ULP: Final = 4.0


@dataclass(frozen=True)
class Parameter:
    """A number that a comparator takes."""

    # None: it must be given.
    default: float | None = 0.0
    least: float = 0.0
    most: float = inf


@dataclass(frozen=True)
class Comparator:
    """One way to compare."""

    measure: Callable[[Array, Array, Mapping[str, float]], Floats]
    # The kinds of element that it takes, as elements.kind_of names them.
    kinds: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    # Whether the rows [B, C] must be probabilities.
    of_probabilities: bool = False


def divergence(comparator: str, primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:
    """Returns the divergence of each row; 1 for all of them where the shape or the kind of element differs.

    `parameters` may leave out those that have a default.
    """
    if primary.shape != shadow.shape or kind_of(primary.dtype) != kind_of(shadow.dtype):
        return np.ones(len(primary))
    entry = COMPARATORS[comparator]
    defaults = {name: p.default for name, p in entry.parameters.items() if p.default is not None}
    return entry.measure(primary, shadow, {**defaults, **parameters})


def unfit(comparator: str, primary: Array, divergences: Floats) -> int:
    """Returns how many of the primary's rows the comparator cannot take: with a NaN in them, or no probabilities."""
    if primary.dtype.kind != "f" or not primary.size:
        return 0
    if COMPARATORS[comparator].of_probabilities:
        # They diverge by 1 from anything.
        suspects = primary[divergences == 1]
        return int(np.count_nonzero(~are_probabilities(doubles(suspects)))) if len(suspects) else 0
    return int(np.count_nonzero(np.isnan(flat(primary)).any(axis=1))) if np.isnan(primary.max()) else 0


_TIES: Final = {"tie_eps": Parameter(TIE_EPS)}
_TOP: Final = {"k": Parameter(0.0)}

COMPARATORS: Final[Mapping[str, Comparator]] = {
    # Labels: ties between classes are forgiven where the probabilities are at hand (see ties).
    "label": Comparator(exact, "bifO", _TIES),
    "argmax": Comparator(argmax, "if", _TIES),
    # What users' thresholds make of a score: both are decisions by then (see decisions).
    "decision": Comparator(exact, "f"),
    "tv": Comparator(tv, "f", of_probabilities=True),
    "js_divergence": Comparator(js_divergence, "f", of_probabilities=True),
    "js_distance": Comparator(js_distance, "f", of_probabilities=True),
    "hellinger": Comparator(hellinger, "f", of_probabilities=True),
    "max_abs": Comparator(max_abs, "f", of_probabilities=True),
    "isclose": Comparator(isclose, "if", {"rtol": Parameter(RTOL), "atol": Parameter(ATOL)}),
    "relative": Comparator(relative, "if"),
    "scaled_abs": Comparator(scaled_abs, "if", {"spread": Parameter(None, 1e-300)}),
    "ulp": Comparator(ulp, "f", {"max_ulp": Parameter(MAX_ULP)}),
    "cosine": Comparator(cosine, "f"),
    "relative_l2": Comparator(relative_l2, "if"),
    "topk": Comparator(topk, "ifO", _TOP),
    "rbo": Comparator(rbo, "ifO", {**_TOP, "p": Parameter(PERSISTENCE, 0.01, 0.999)}),
    "kendall_topk": Comparator(kendall_topk, "ifO", _TOP),
    "text": Comparator(text, "O"),
    "edit": Comparator(edit, "O"),
    "mask": Comparator(mask, "bi"),
    "hamming": Comparator(hamming, "bifO"),
    "exact": Comparator(exact, "bifO"),
}
