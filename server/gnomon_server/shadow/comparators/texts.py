"""Texts: text for equality as people read, edit for how much was changed."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.shadow.comparators.elements import Floats, flat, worst

# Code points of which the distance is taken; it costs their square, divided by the width of a machine's word.
LONGEST: Final = 2000


def text(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns 0 for a row whose texts are equal but for case, composition of characters and white space, else 1.

    Compared as caseless matching of canonical equivalents (The Unicode Standard, section 3.13, D145).
    """
    return _each(primary, shadow, lambda a, b: float(_normal(a) != _normal(b)))


def edit(primary: Array, shadow: Array, parameters: Mapping[str, float]) -> Floats:  # noqa: ARG001 - takes none
    """Returns the least number of characters to insert, delete or replace (Levenshtein 1966) over the longer length.

    0: equal; 1: nothing in common. Of texts beyond 2,000 code points only the first 2,000 are looked at, but any later
    difference counts as at least one character.
    """
    return _each(primary, shadow, _edited)


def distance(a: str, b: str) -> int:
    """Returns the Levenshtein distance of two texts, a column of the table at a time in the bits of one number.

    Myers 1999, as Hyyrö 2003 ("A bit-vector algorithm for computing Levenshtein and Damerau edit distances") has it.
    """
    a, b = _without_common_ends(a, b)
    if not a or not b:
        return len(a) + len(b)
    places: dict[str, int] = {}
    for index, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << index
    whole, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    # Where the table grows, and where it falls, from one row to the next.
    up, down, result = whole, 0, len(a)
    for character in b:
        match = places.get(character, 0) | down
        diagonal = (((match & up) + up) ^ up) | match
        across_up, across_down = down | (~(diagonal | up) & whole), up & diagonal
        result += bool(across_up & last) - bool(across_down & last)
        across_up = across_up << 1 | 1
        up = (across_down << 1 | ~(diagonal | across_up)) & whole
        down = across_up & diagonal & whole
    return result


def _each(primary: Array, shadow: Array, measure: Callable[[str, str], float]) -> Floats:
    """Measures the pairs that differ; all others are 0."""
    a, b = flat(primary), flat(shadow)
    result = np.zeros(a.shape)
    for place in zip(*np.nonzero(a != b), strict=True):
        result[place] = measure(a[place], b[place])
    return worst(result)


def _edited(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    # The two differ somewhere, whatever their beginnings say.
    return max(distance(a[:LONGEST], b[:LONGEST]) / min(longer, LONGEST), 1 / longer)


def _without_common_ends(a: str, b: str) -> tuple[str, str]:
    shorter = min(len(a), len(b))
    start = next((i for i in range(shorter) if a[i] != b[i]), shorter)
    end = next((i for i in range(shorter - start) if a[-1 - i] != b[-1 - i]), shorter - start)
    return a[start : len(a) - end], b[start : len(b) - end]


def _normal(value: str) -> str:
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFD", value).casefold()).split())
