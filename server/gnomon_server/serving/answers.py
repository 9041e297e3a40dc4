"""Answers: serialised responses, whose head is made once for each shape.

The bytes are those that protobuf would write for the same response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array, datatype_of, to_raw

ID: Final = b"\x1a"
RAW: Final = b"\x32"
# Heads that are kept; shapes come from clients, so there must be a bound.
MOST: Final = 512
ONE_BYTE: Final = 0x80

_Shape = tuple[tuple[int, ...], ...]


class Answers:
    """Writes the answers of one version."""

    def __init__(self, model: str, version: int) -> None:
        self._begin = pb.ModelInferResponse(model_name=model, model_version=str(version)).SerializeToString()
        self._heads: dict[tuple[tuple[str, ...], _Shape], bytes] = {}

    def write(self, request_id: bytes, names: tuple[str, ...], outputs: Sequence[Array]) -> bytes:
        """Returns the response with raw contents; `request_id` is UTF-8. Raises TensorError for a foreign dtype."""
        parts = [self._begin]
        if request_id:
            parts += (ID, varint(len(request_id)), request_id)
        key = (names, tuple([output.shape for output in outputs]))
        head = self._heads.get(key)
        parts.append(head if head is not None else self._head(key, outputs))
        for output in outputs:
            data = to_raw(output) if output.dtype.kind in "OSU" else output.tobytes()
            parts += (RAW, varint(len(data)), data)
        return b"".join(parts)

    def _head(self, key: tuple[tuple[str, ...], _Shape], outputs: Sequence[Array]) -> bytes:
        # A version gives each of its outputs one dtype, so names and shapes tell the whole head.
        response = pb.ModelInferResponse()
        for name, output in zip(key[0], outputs, strict=True):
            response.outputs.add(name=name, datatype=datatype_of(output), shape=output.shape)
        head = response.SerializeToString()
        if len(self._heads) < MOST:
            self._heads[key] = head
        return head


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
