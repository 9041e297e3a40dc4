"""The ranks that an ONNX file declares: to onnxruntime a tensor of unknown rank looks like a scalar.

The file is walked without being parsed, since it may have gigabytes (onnx.proto: ModelProto, GraphProto,
ValueInfoProto, TypeProto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Field numbers.
GRAPH: Final = 7
INPUT_AND_OUTPUT: Final = (11, 12)
NAME: Final = 1
TYPE: Final = 2
TENSOR_TYPE: Final = 1
SHAPE: Final = 2
# Wire types.
VARINT: Final = 0
LENGTH_DELIMITED: Final = 2
FIXED: Final = {1: 8, 5: 4}

Span = tuple[int, int]


def unranked(path: Path) -> frozenset[str]:
    """Returns the names of the graph's inputs and outputs that have no shape; none if the file is no protobuf."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return frozenset(_unranked(data))
    except (IndexError, ValueError):
        return frozenset()


def _unranked(data: mmap.mmap) -> Iterator[str]:
    for graph, _ in _inside(data, (0, len(data)), GRAPH):
        for value, _ in _inside(data, graph, *INPUT_AND_OUTPUT):
            fields = {number: span for span, number in _inside(data, value, NAME, TYPE)}
            tensor = _first(data, fields.get(TYPE), TENSOR_TYPE)
            if tensor is not None and _first(data, tensor, SHAPE) is None:
                begin, end = fields[NAME]
                yield data[begin:end].decode()


def _first(data: mmap.mmap, within: Span | None, number: int) -> Span | None:
    return None if within is None else next((span for span, _ in _inside(data, within, number)), None)


def _inside(data: mmap.mmap, within: Span, *numbers: int) -> Iterator[tuple[Span, int]]:
    """Yields where the fields of these numbers lie; raises IndexError or ValueError if it is no message."""
    position, end = within
    while position < end:
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == VARINT:
            _, position = _varint(data, position)
        elif kind == LENGTH_DELIMITED:
            size, position = _varint(data, position)
            if tag >> 3 in numbers:
                yield (position, position + size), tag >> 3
            position += size
        elif kind in FIXED:
            position += FIXED[kind]
        else:
            raise ValueError(kind)


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
