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
# zlib window bits that make it read gzip and zlib streams.
_WINDOW: Final = {b"gzip": 31, b"deflate": 15}


def prefix(message: bytes) -> bytes:
    """Returns the prefix of an uncompressed message."""
    return b"\0" + len(message).to_bytes(4, "big")


def only_message(data: bytes, limit: int) -> bytes | None:
    """Returns the message if the data is exactly one, uncompressed and not too large."""
    size = len(data) - PREFIX
    if 0 <= size <= limit and data[0] == 0 and int.from_bytes(data[1:PREFIX], "big") == size:
        return data[PREFIX:]
    return None


class Assembler:
    """Puts the messages of one stream together; holds at most one incomplete message."""

    __slots__ = ("_buffer", "_encoding", "_limit", "_wanted")

    def __init__(self, encoding: bytes, limit: int) -> None:
        """Takes the stream's grpc-encoding, empty without one, and the most bytes of a message, also inflated."""
        self._buffer = bytearray()
        self._encoding = encoding
        self._limit = limit
        # Bytes that the buffer must have before there is anything to do.
        self._wanted = PREFIX

    @property
    def held(self) -> int:
        """Bytes of an incomplete message."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Returns the messages that became complete.

        Raises GnomonError with the status that the call must end with; nothing more may be fed then. A message that
        is too large is refused as soon as its length is known.
        """
        self._buffer += data
        messages: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= self._wanted:
            flag, size = self._head(start)
            self._wanted = PREFIX + size
            if len(self._buffer) - start < self._wanted:
                break
            with memoryview(self._buffer) as view:
                message = bytes(view[start + PREFIX : start + self._wanted])
            start += self._wanted
            self._wanted = PREFIX
            messages.append(self._inflated(message) if flag else message)
        del self._buffer[:start]
        return messages

    def _head(self, start: int) -> tuple[int, int]:
        flag, size = self._buffer[start], int.from_bytes(self._buffer[start + 1 : start + PREFIX], "big")
        if flag > 1:
            raise Internal(f"message: expected flag 0 or 1, received {flag}")
        if flag and self._encoding not in _WINDOW:
            raise Internal("message: compressed, but grpc-encoding names no compression")
        if size > self._limit:
            raise too_large(size, self._limit)
        return flag, size

    def _inflated(self, message: bytes) -> bytes:
        inflater = zlib.decompressobj(_WINDOW[self._encoding])
        try:
            # One byte more than allowed tells a message that is too large without inflating all of it.
            inflated = inflater.decompress(message, self._limit + 1)
        except zlib.error:
            raise Internal(f"message: no valid {self._encoding.decode()}") from None
        if len(inflated) > self._limit:
            raise too_large(len(inflated), self._limit)
        if not inflater.eof or inflater.unused_data:
            raise Internal(f"message: expected one {self._encoding.decode()} stream, received less or more")
        return inflated


def too_large(size: int, limit: int) -> Exhausted:
    """Returns the error for a message over the limit, in gRPC's own words."""
    return Exhausted(f"Received message larger than max ({size} vs. {limit})")


def unknown_encoding(encoding: bytes) -> GnomonError:
    """Returns the error for a grpc-encoding that is not in ENCODINGS."""
    shown = encoding.decode("ascii", "backslashreplace")[:64]
    known = ", ".join(name.decode() for name in ENCODINGS)
    return NotOffered(f"grpc-encoding: expected one of {known}, received {shown}")
