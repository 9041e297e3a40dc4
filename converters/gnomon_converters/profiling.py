"""The profile of a reference: how each feature and each output of a version is distributed in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from gnomon_converters.errors import ConversionError
from gnomon_converters.frameworks import Original
from gnomon_protos import profiles
from gnomon_protos.profile_pb2 import Chunk, Feature, Profile, Ranges, Texts, Values
from gnomon_protos.tensors import Array

# Fewer rows say nothing about what is usual.
ROWS: Final = 200
# Columns of one tensor beyond which it is left out, such as the pixels of an image.
COLUMNS: Final = 512
# Numbers of which there are no more are bins themselves.
DISTINCT: Final = 32
QUANTILES: Final = np.arange(5, 100, 5) / 100
# Texts that are bins, and texts that are named at all.
LISTED: Final = 50
NAMED: Final = 2000
# Parts in time that are kept; of more, as many are taken evenly.
CHUNKS: Final = 64

Floats = NDArray[np.float64]


def profile(
    inputs: Mapping[str, Array], original: Original, outputs: Mapping[str, Array], times: Floats | None, window: float
) -> Profile | None:
    """Returns the profile of tensors [rows, ...] of a reference; None where it has too few rows.

    `outputs` are the converted model's. `times` are seconds, one a row: those within the same `window` seconds are a
    chunk.
    """
    rows = len(next(iter(inputs.values())))
    if rows < ROWS:
        return None
    chunks = [] if times is None else _chunks(times, window)
    features = [
        *(found for name, array in inputs.items() for found in _features(name, array, (), chunks, output=False)),
        *(
            found
            for one in original.outputs
            for found in _features(one.name, outputs[one.name], one.classes, chunks, output=True)
        ),
    ]
    made = Profile(rows=rows, chunk_seconds=window if chunks else 0.0, features=features)
    tables = [{name: profiles.columns(array) for name, array in side.items()} for side in (inputs, outputs)]
    _count(made, tables[0], tables[1], chunks)
    return made


def to_json(made: Profile) -> bytes:
    """Returns the content of profile.json."""
    text: str = json_format.MessageToJson(made, preserving_proto_field_name=True, ensure_ascii=False, indent=None)
    return (text + "\n").encode()


def seconds(times: Any) -> Floats:
    """Returns times as seconds: numbers as they are, dates since the epoch; raises ConversionError."""
    import pandas as pd

    array = np.asarray(times)
    if array.dtype.kind in "biuf":
        numbers = array.astype(np.float64)
    else:
        parsed = pd.to_datetime(pd.Series(array), utc=True, format="ISO8601", errors="coerce")
        absent = parsed.isna().to_numpy()
        wrong = absent & ~pd.isna(array)
        if wrong.any():
            received = repr(str(array[wrong][0])[:40])
            raise ConversionError(f"times: expected dates by ISO 8601 or seconds, received {received}")
        numbers = parsed.astype("datetime64[ns, UTC]").astype(np.int64).to_numpy() / 1e9
        numbers[absent] = np.nan
    if not np.isfinite(numbers).all():
        raise ConversionError("times: expected a time in every row of the reference, received a missing one")
    return numbers


def _chunks(times: Floats, window: float) -> list[NDArray[np.intp]]:
    """Returns the rows of each window in the order of time; a window of too few rows is joined with the next one."""
    order = np.argsort(times, kind="stable")
    number = np.floor((times[order] - times[order[0]]) / window)
    parts: list[NDArray[np.intp]] = []
    waiting: NDArray[np.intp] = order[:0]
    for part in np.split(order, np.flatnonzero(np.diff(number)) + 1):
        waiting = np.concatenate([waiting, part])
        if len(waiting) >= ROWS:
            parts.append(waiting)
            waiting = order[:0]
    if len(parts) < 2:
        return []
    kept = np.unique(np.linspace(0, len(parts) - 1, min(CHUNKS, len(parts))).astype(np.intp))
    return [parts[index] for index in kept]


def _features(
    tensor: str, array: Array, classes: Sequence[str], chunks: Sequence[NDArray[np.intp]], *, output: bool
) -> Iterator[Feature]:
    table = profiles.columns(array)
    width = table.shape[1]
    if width > COLUMNS:
        return
    for column in range(width):
        part = classes[column] if len(classes) == width > 1 else column
        name = tensor if width == 1 else f"{tensor}[{part}]"
        feature = Feature(name=name, tensor=tensor, output=output, column=column)
        values = table[:, column]
        (_describe_texts if values.dtype == object else _describe_numbers)(feature, values)
        feature.chunks.extend(Chunk(novel=novel) for novel in _novel(feature, values, chunks))
        yield feature


def _describe_numbers(feature: Feature, column: Array) -> None:
    values = column.astype(np.float64)
    finite = np.sort(values[np.isfinite(values)])
    distinct, times = np.unique(finite, return_counts=True)
    if len(finite):
        feature.mean, feature.deviation = float(finite.mean()), float(finite.std())
    if len(distinct) <= DISTINCT:
        feature.values.CopyFrom(Values(values=distinct))
        feature.unseen = _unseen(times, len(column))
        return
    edges = np.unique(np.quantile(finite, QUANTILES, method="inverted_cdf"))
    feature.ranges.CopyFrom(Ranges(edges=edges, low=finite[0], high=finite[-1]))
    # Of n + 1 values, each is as likely as any other to be the least or the greatest.
    feature.unseen = 2 / (len(finite) + 1)


def _describe_texts(feature: Feature, column: Array) -> None:
    texts, times = np.unique(_cut(column), return_counts=True)
    times = times[texts != ""]
    texts = texts[texts != ""]
    order = np.argsort(-times, kind="stable")
    listed, others = texts[order[:LISTED]], texts[order[LISTED:]]
    known = others if len(others) <= NAMED else others[:0]
    feature.texts.CopyFrom(Texts(listed=listed, others=known, open=len(others) > NAMED))
    feature.unseen = _unseen(times, len(column))


def _unseen(times: NDArray[np.intp], rows: int) -> float:
    """Returns the share of what is still to be seen, by what was seen once (Good 1953)."""
    return max(2 / (rows + 1), float(np.count_nonzero(times == 1)) / rows)


def _cut(column: Array) -> Array:
    return np.array([str(text)[: profiles.CHARACTERS] for text in column], np.str_)


def _novel(feature: Feature, column: Array, chunks: Sequence[NDArray[np.intp]]) -> list[int]:
    """Returns how many rows of each chunk hold what the rest of the reference does not."""
    if feature.WhichOneof("bins") == "ranges":
        return _outside(column.astype(np.float64), chunks)
    values, inverse = np.unique(_cut(column) if column.dtype == object else column, return_inverse=True)
    given = values != "" if column.dtype == object else ~np.isnan(values.astype(np.float64))
    totals = np.bincount(inverse, minlength=len(values))
    owns = [np.bincount(inverse[rows], minlength=len(values)) for rows in chunks]
    return [int(own[given & (own == totals)].sum()) for own in owns]


def _outside(column: Floats, chunks: Sequence[NDArray[np.intp]]) -> list[int]:
    elsewhere = np.ones(len(column), np.bool_)
    elsewhere[np.concatenate([column[:0].astype(np.intp), *chunks])] = False
    parts = [column[rows] for rows in chunks]
    finite = [part[np.isfinite(part)] for part in (*parts, column[elsewhere])]
    lows = np.array([part.min(initial=np.inf) for part in finite])
    highs = np.array([part.max(initial=-np.inf) for part in finite])
    return [
        int(np.count_nonzero((part < np.delete(lows, i).min()) | (part > np.delete(highs, i).max())))
        for i, part in enumerate(parts)
    ]


def _count(
    made: Profile, inputs: Mapping[str, Array], outputs: Mapping[str, Array], chunks: Sequence[NDArray[np.intp]]
) -> None:
    """Counts the reference, and its chunks, into the bins that it has given."""
    counter = profiles.Counter(made)
    whole = counter.count(inputs, outputs, made.rows)
    for feature, counts in zip(made.features, counter.split(whole), strict=True):
        feature.counts.extend(counts.tolist())
    for number, rows in enumerate(chunks):
        own, answers = ({name: array[rows] for name, array in side.items()} for side in (inputs, outputs))
        for feature, counts in zip(made.features, counter.split(counter.count(own, answers, len(rows))), strict=True):
            feature.chunks[number].counts.extend(counts.tolist())
