"""The weight of a message: how many small parts it has, counted before protobuf makes an object of each.

A part takes two bytes on the wire and as much as ninety in memory, so that a message within the limit of its size could
take gigabytes, and seconds of the loop that everyone shares.
"""

from __future__ import annotations

from typing import Final

from gnomon_server.errors import InvalidRequest

# Tensors, parameters, requested outputs and dimensions of one request; a model of ten thousand inputs needs fewer.
MOST_PARTS: Final = 1 << 16
# Field numbers of a request's inputs, and of an input's shape.
INPUTS: Final = 5
SHAPE: Final = 3
# Wire types that have a fixed size.
FIXED: Final = {1: 8, 5: 4}
VARINT: Final = 0
LENGTH_DELIMITED: Final = 2
# Bits of the longest varint.
MOST_BITS: Final = 70


def check(message: bytes) -> None:
    """Raises InvalidRequest if a serialised ModelInferRequest has too many parts; a malformed one may pass."""
    # A part has at least two bytes, a dimension one.
    if len(message) > MOST_PARTS:
        try:
            _count(message, 0, len(message), 0, inside=False)
        except IndexError:
            # It ends within a field: the parser's to refuse.
            return


def _count(message: bytes, position: int, end: int, parts: int, inside: bool) -> int:
    """Returns the parts so far and those from `position` on, of the request itself or `inside` one of its inputs."""
    while position < end:
        parts += 1
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            size, position = _varint(message, position)
            if inside and tag >> 3 == SHAPE:
                parts += size
            elif not inside and tag >> 3 == INPUTS:
                parts = _count(message, position, position + size, parts, inside=True)
            position += size
        elif kind == VARINT:
            _, position = _varint(message, position)
        else:
            # Groups have no size of their own; what they hold is counted as it comes.
            position += FIXED.get(kind, 0)
        if parts > MOST_PARTS:
            raise InvalidRequest(
                f"ModelInferRequest: expected at most {MOST_PARTS} tensors, parameters and dimensions, received more"
            )
    return parts


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, MOST_BITS, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError
