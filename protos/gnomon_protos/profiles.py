"""The bins of a profile: into which of them each value of a feature falls, for whoever counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.profile_pb2 import Feature, Profile
from gnomon_protos.tensors import Array, widened

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

# The last two bins of every feature: missing and novel.
EXTRA: Final = 2
# Characters by which a text is told from others.
CHARACTERS: Final = 64
# Comparisons of a value with an edge that are made at once, a byte each.
AT_ONCE: Final = 1 << 22


def bins(feature: Feature) -> int:
    """Returns how many bins a feature has, the last two among them."""
    kind = feature.WhichOneof("bins")
    if kind == "ranges":
        return len(feature.ranges.edges) + 1 + EXTRA
    if kind == "values":
        return len(feature.values.values) + EXTRA
    return len(feature.texts.listed) + 1 + EXTRA


def columns(array: Array, *, rowwise: bool = True) -> Array:
    """Returns a tensor as [rows, columns], a tensor without a batch dimension as one row."""
    array = widened(array)
    if not rowwise or not array.ndim:
        return array.reshape(1, -1)
    return array.reshape(len(array), prod(array.shape[1:]))


class Counter:
    """Counts rows into the bins of a profile; keeps nothing of them."""

    def __init__(self, profile: Profile) -> None:
        self._features: Sequence[Feature] = profile.features
        sizes = [bins(feature) for feature in self._features]
        ends = np.cumsum(sizes, dtype=np.intp)
        self.size = int(ends[-1]) if sizes else 0
        self._starts = ends - sizes
        self._ends = ends
        texts = [feature.WhichOneof("bins") == "texts" for feature in self._features]
        self._numeric = [index for index, text in enumerate(texts) if not text]
        self._texts = {index: _table(self._features[index]) for index, text in enumerate(texts) if text}
        self._prepare([self._features[index] for index in self._numeric])

    def count(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array], rows: int) -> Counts:
        """Returns int64[size]: of each feature in order, how many of the rows are in each of its bins.

        Of each tensor [rows, columns]: numbers, or objects that are str. An input that is not there is missing in all
        rows; an output that is not there, since nobody asked for it, is not counted.
        """
        counts = np.zeros(self.size, np.int64)
        if self._numeric and rows:
            values = np.stack([self._numbers(index, inputs, outputs, rows) for index in self._numeric], axis=1)
            step = max(1, AT_ONCE // self._edges.size)
            for start in range(0, rows, step):
                places = self._bins(values[start : start + step]) + self._starts[self._numeric]
                counts += np.bincount(places.ravel(), minlength=self.size)
        for index, table in self._texts.items():
            counts += self._counted_texts(index, table, self._column(index, inputs, outputs), rows)
        for feature, start, end in zip(self._features, self._starts, self._ends, strict=True):
            if feature.output and feature.tensor not in outputs:
                counts[start:end] = 0
        return counts

    def split(self, counts: Counts) -> list[Counts]:
        """Returns the counts of all features as the counts of each."""
        return np.split(counts, self._ends[:-1]) if self.size else []

    def _prepare(self, features: Sequence[Feature]) -> None:
        edges = [feature.ranges.edges or feature.values.values for feature in features]
        self._edges = np.full((len(features), max(map(len, edges), default=0) + 1), np.inf)
        for row, known in zip(self._edges, edges, strict=True):
            row[: len(known)] = known
        self._exact = np.array([feature.WhichOneof("bins") == "values" for feature in features], np.bool_)
        self._low = np.array([_low(feature) for feature in features])
        self._high = np.array([_high(feature) for feature in features])
        self._missing = np.array([bins(feature) - EXTRA for feature in features], np.intp)

    def _column(self, index: int, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Array | None:
        feature = self._features[index]
        array = (outputs if feature.output else inputs).get(feature.tensor)
        return array[:, feature.column] if array is not None and feature.column < array.shape[1] else None

    def _numbers(self, index: int, inputs: Mapping[str, Array], outputs: Mapping[str, Array], rows: int) -> Numbers:
        column = self._column(index, inputs, outputs)
        if column is None or column.dtype.kind not in "biuf":
            return np.full(rows, np.nan)
        return column.astype(np.float64)

    def _bins(self, values: Numbers) -> NDArray[np.intp]:
        """Returns intp[rows, numeric features], the bin of each number within its feature."""
        found = np.count_nonzero(values[:, :, np.newaxis] > self._edges, axis=2)
        at_edge = self._edges[np.arange(values.shape[1]), found] == values
        inside = np.isfinite(values) & (values >= self._low) & (values <= self._high)
        known = inside & (at_edge | ~self._exact)
        return np.where(known, found, np.where(np.isnan(values), self._missing, self._missing + 1))

    def _counted_texts(self, index: int, table: Mapping[str, int], column: Array | None, rows: int) -> Counts:
        feature, start = self._features[index], int(self._starts[index])
        counts = np.zeros(self.size, np.int64)
        if column is None:
            counts[start + bins(feature) - EXTRA] = rows
            return counts
        unknown = len(feature.texts.listed) if feature.texts.open else bins(feature) - 1
        places = [table.get(str(text)[:CHARACTERS], unknown) for text in column]
        return np.bincount(np.array(places, np.intp) + start, minlength=self.size)


def _table(feature: Feature) -> dict[str, int]:
    """Returns the bin of each text that the reference has, and of the missing one."""
    texts = feature.texts
    others = dict.fromkeys(texts.others, len(texts.listed))
    return {**others, **{text: index for index, text in enumerate(texts.listed)}, "": bins(feature) - EXTRA}


def _low(feature: Feature) -> float:
    return feature.ranges.low if feature.WhichOneof("bins") == "ranges" else -np.inf


def _high(feature: Feature) -> float:
    return feature.ranges.high if feature.WhichOneof("bins") == "ranges" else np.inf
