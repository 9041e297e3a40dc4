"""Answers: serialised responses, whose head is made once for each shape.

The bytes are those that protobuf would write for the same response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array, datatype_of, to_raw

ID: Final = b"\x1a"
RAW: Final = b"\x32"
# Heads that are kept; shapes come from clients, so there must be a bound.
MOST: Final = 512
ONE_BYTE: Final = 0x80

_Shapes = tuple[tuple[int, ...], ...]


class Answers:
    """Writes the answers of one version."""

    def __init__(self, model: str, version: int) -> None:
        self._begin = pb.ModelInferResponse(model_name=model, model_version=str(version)).SerializeToString()
        self._heads: dict[tuple[tuple[str, ...], _Shapes], bytes] = {}

    def write(self, ids: Sequence[bytes], names: tuple[str, ...], outputs: Sequence[Array]) -> list[bytes]:
        """Returns the responses to requests of equal shapes, with raw contents.

        Their outputs lie behind one another along the first dimension. Ids are UTF-8. Raises TensorError for a foreign
        dtype.
        """
        count = len(ids)
        shapes = tuple([shape_of_one(output, count) for output in outputs])
        head = self._heads.get((names, shapes)) or self._head(names, shapes, outputs)
        columns = [_contents(output, count) for output in outputs]
        begin = self._begin
        return [
            b"".join((begin, ID, varint(len(one)), one, head, *contents) if one else (begin, head, *contents))
            for one, *contents in zip(ids, *columns, strict=True)
        ]

    def _head(self, names: tuple[str, ...], shapes: _Shapes, outputs: Sequence[Array]) -> bytes:
        # A version gives each of its outputs one dtype, so names and shapes tell the whole head.
        response = pb.ModelInferResponse()
        for name, shape, output in zip(names, shapes, outputs, strict=True):
            response.outputs.add(name=name, datatype=datatype_of(output), shape=shape)
        head = response.SerializeToString()
        if len(self._heads) < MOST:
            self._heads[names, shapes] = head
        return head


def shape_of_one(output: Array, count: int) -> tuple[int, ...]:
    """Returns the shape of one of `count` equal parts of an output."""
    return output.shape if count == 1 else (len(output) // count, *output.shape[1:])


def _contents(output: Array, count: int) -> list[bytes]:
    """Returns the fields with the contents of each of `count` equal parts."""
    if output.dtype.kind in "OSU":
        raws = [to_raw(part) for part in (np.split(output, count) if count > 1 else (output,))]
        return [RAW + varint(len(raw)) + raw for raw in raws]
    data = output.tobytes()
    size = len(data) // count
    begin = RAW + varint(size)
    return [begin + data[at : at + size] for at in range(0, len(data), size)] if size else [begin] * count


def varint(value: int) -> bytes:
    """Returns a length as protobuf writes it."""
    if value < ONE_BYTE:
        return _SMALL[value]
    parts = bytearray()
    while value >= ONE_BYTE:
        parts.append(value & 0x7F | ONE_BYTE)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_SMALL: Final = tuple(bytes((value,)) for value in range(ONE_BYTE))
