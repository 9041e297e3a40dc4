"""Length-prefixed messages: a flag, four bytes of length, and the message, over any number of DATA frames.

Source: "gRPC over HTTP2", section "Length-Prefixed-Message", and doc/compression.md of grpc/grpc.
"""

from __future__ import annotations

import zlib
from typing import Final

from gnomon_server.errors import Exhausted, GnomonError, Internal, NotOffered

PREFIX: Final = 5
# What may stand in grpc-encoding.
ENCODINGS: Final = (b"identity", b"gzip", b"deflate")
# zlib window bits that make it read gzip and raw zlib streams.
_WINDOW: Final = {b"gzip": 31, b"deflate": 15}


def frame(message: bytes) -> bytes:
    """Returns a message with its prefix, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Assembler:
    """Puts the messages of one stream together; holds at most one incomplete message."""

    __slots__ = ("_buffer", "_encoding", "_limit")

    def __init__(self, encoding: bytes, limit: int) -> None:
        """Takes the stream's grpc-encoding, empty without one, and the most bytes of a message, also inflated."""
        self._buffer = bytearray()
        self._encoding = encoding
        self._limit = limit

    @property
    def held(self) -> int:
        """Bytes of an incomplete message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the messages that became complete.

        Raises GnomonError with the status that the call must end with; nothing more may be fed then.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= PREFIX:
            flag, size = self._buffer[0], int.from_bytes(self._buffer[1:PREFIX], "big")
            self._check(flag, size)
            if len(self._buffer) < PREFIX + size:
                break
            message = bytes(self._buffer[PREFIX : PREFIX + size])
            del self._buffer[: PREFIX + size]
            messages.append(self._inflated(message) if flag else message)
        return messages

    def _check(self, flag: int, size: int) -> None:
        if flag > 1:
            raise Internal(f"message: expected flag 0 or 1, received {flag}")
        if flag and self._encoding not in _WINDOW:
            raise Internal("message: compressed, but grpc-encoding names no compression")
        if size > self._limit:
            raise too_large(size, self._limit)

    def _inflated(self, message: bytes) -> bytes:
        inflater = zlib.decompressobj(_WINDOW[self._encoding])
        try:
            # One byte more than allowed tells a message that is too large without inflating all of it.
            inflated = inflater.decompress(message, self._limit + 1)
        except zlib.error:
            raise Internal(f"message: no valid {self._encoding.decode()}") from None
        if len(inflated) > self._limit:
            raise too_large(len(inflated), self._limit)
        if not inflater.eof:
            raise Internal(f"message: incomplete {self._encoding.decode()}")
        return inflated


def too_large(size: int, limit: int) -> Exhausted:
    """Returns the error for a message over the limit, in gRPC's own words."""
    return Exhausted(f"Received message larger than max ({size} vs. {limit})")


def unknown_encoding(encoding: bytes) -> GnomonError:
    """Returns the error for a grpc-encoding that is not in ENCODINGS."""
    shown = encoding.decode("ascii", "backslashreplace")[:64]
    known = ", ".join(name.decode() for name in ENCODINGS)
    return NotOffered(f"grpc-encoding: expected one of {known}, received {shown}")
