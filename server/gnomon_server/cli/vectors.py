"""Test vectors: divergent requests, shrunk to what makes two versions diverge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gnomon_protos import control_pb2, tensors
from gnomon_protos.tensors import Array
from gnomon_server.cli import divergent
from gnomon_server.cli.both import Both
from gnomon_server.cli.dataset import Dataset
from gnomon_server.errors import InvalidRequest
from gnomon_server.shadow import shrinking
from gnomon_server.shadow.comparing import Compared
from gnomon_server.wire.record import Record

# Sets of features that are tried for one request.
MOST: Final = 4096


@dataclass(frozen=True)
class Change:
    """A feature in which a vector differs from the typical row."""

    input: str
    # Within the row.
    index: tuple[int, ...]
    typical: object
    value: object


@dataclass(frozen=True)
class Vector:
    """One row on which the versions diverge."""

    trace_id: str
    changes: tuple[Change, ...]
    # Whether leaving out any one change was tried, and makes them agree.
    minimal: bool
    inputs: Mapping[str, Array]
    # The request with the primary's answer, and how the shadow compares.
    record: Record
    compared: Compared


@dataclass(frozen=True)
class Found:
    """What became of the requests that were to be shrunk."""

    typical: Mapping[str, Array]
    vectors: tuple[Vector, ...]
    # Requests whose values are withheld, and such as do not diverge here.
    withheld: int
    agreeing: int


def shrunk(
    both: Both, requests: Iterable[control_pb2.DivergentRequest], usual: Mapping[str, Array] | None = None
) -> Found:
    """Shrinks divergent requests towards a typical one of the `usual` rows, or of the requests themselves.

    Raises InvalidRequest if there is no row on which the versions agree.
    """
    asked = list(requests)
    rows = [(one.trace_id, row) for one in asked if (row := _row(one, both)) is not None]
    kept = _joined([row for _, row in rows]) if usual is None else usual
    if not rows or not kept:
        return Found({}, (), len(asked) - len(rows), 0)
    base = _agreeing(both, kept)
    vectors: dict[bytes, Vector] = {}
    agreeing = 0
    for trace_id, row in rows:
        if not both.diverge(Dataset(row, None))[0]:
            agreeing += 1
            continue
        vector = _vector(both, trace_id, base, row)
        # Many requests come down to the same one.
        vectors.setdefault(vector.record.request, vector)
    return Found(base, tuple(vectors.values()), len(asked) - len(rows), agreeing)


def _row(request: control_pb2.DivergentRequest, both: Both) -> dict[str, Array] | None:
    """Returns the first row that was kept of a request; None if something of it is withheld."""
    signature = both.primary.signature
    found = {kept.tensor.name: kept for kept in request.inputs}
    if set(found) != {spec.name for spec in signature.required} or any(kept.withheld for kept in found.values()):
        return None
    row = {}
    for spec in signature.required:
        array = tensors.from_message(found[spec.name].tensor)
        array = tensors.to_text(array) if spec.datatype == "BYTES" else array
        row[spec.name] = array[:1] if signature.batched else array[np.newaxis]
    return row if all(len(array) for array in row.values()) else None


def _joined(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Returns the rows together: those that have the shapes of the first."""
    alike = [row for row in rows if all(row[name].shape == array.shape for name, array in rows[0].items())]
    return {name: np.concatenate([row[name] for row in alike]) for name in (alike[0] if alike else ())}


def _agreeing(both: Both, rows: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the typical row, or the nearest to it of those on which the versions agree."""
    base = shrinking.typical(rows)
    if not both.diverge(Dataset(base, None))[0]:
        return base
    singles = list(Dataset(rows, None).singles())
    near = sorted(range(len(singles)), key=lambda number: int(shrinking.differing(base, singles[number].inputs).sum()))
    for number in near[:MOST]:
        if not both.diverge(singles[number])[0]:
            return dict(singles[number].inputs)
    expected = "typical rows: expected some on which the versions agree, found none"
    raise InvalidRequest(f"{expected}: name a file of usual rows by --typical")


def _vector(both: Both, trace_id: str, base: Mapping[str, Array], row: Mapping[str, Array]) -> Vector:
    if any(array.shape != base[name].shape for name, array in row.items()):
        # Of another shape than what is typical: there is no feature to put in place of another.
        found, inputs = shrinking.Shrunk((), minimal=False), dict(row)
    else:
        features = np.flatnonzero(shrinking.differing(base, row)).tolist()
        found = shrinking.shrink(features, both.first(base, row), MOST)
        inputs = shrinking.mixed(base, row, [found.features])
    (compared,) = both.compared(Dataset(inputs, None))
    assert compared is not None  # noqa: S101 - it diverges
    return Vector(trace_id, _changes(base, row, found.features), found.minimal, inputs, *compared)


def _changes(base: Mapping[str, Array], row: Mapping[str, Array], features: Sequence[int]) -> tuple[Change, ...]:
    changes, begin = [], 0
    for name, array in base.items():
        for feature in features:
            if begin <= feature < begin + array.size:
                place = tuple(map(int, np.unravel_index(feature - begin, array.shape)))
                changes.append(Change(name, place[1:], plain(array[place]), plain(row[name][place])))
        begin += array.size
    return tuple(changes)


def plain(value: Any) -> object:
    """Returns an array as nested lists that JSON can hold."""
    return divergent.strict(tensors.widened(np.asarray(value)).tolist())
