"""A lean HTTP/2 client connection for one unary gRPC method: bytes of many calls out, their ends in.

It speaks as much of RFC 9113 as a load generator needs, in prepared bytes: a library costs more than the server does.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEAD: Final = 9
GRPC_PREFIX: Final = 5
FRAME: Final = 1 << 14
INITIAL_WINDOW: Final = (1 << 16) - 1
INITIAL_WINDOW_SETTING: Final = b"\x00\x04"
STREAM_WINDOW: Final = 1 << 20
# Of the connection; given back once half of it is used.
WINDOW: Final = 1 << 30
# Calls in flight that a server must allow; what comes on top waits here.
MOST: Final = 100


class Wrong(Exception):
    """An answer that is not what it must be."""


class Connection:
    """One connection, whose calls all send the same method a message of their own and get an answer of one size."""

    def __init__(self, address: str, path: str, answer_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # When each call in flight was begun, and the bytes of its answer that are still to come.
        self._begun: dict[int, float] = {}
        self._missing: dict[int, int] = {}
        self._waiting: deque[tuple[float, bytes]] = deque()
        # Of calls that have begun: stream, flags and bytes of frames that wait for the connection's window.
        self._parts: deque[tuple[int, int, bytes]] = deque()
        self._answer = answer_bytes + GRPC_PREFIX
        self._headers = _headers(path, address)
        self._stream = 1
        self._window = INITIAL_WINDOW
        self._used = 0
        self._rest = b""
        self._out: list[bytes] = [
            PREFACE,
            _frame(SETTINGS, 0, 0, INITIAL_WINDOW_SETTING + STREAM_WINDOW.to_bytes(4)),
            _frame(WINDOW_UPDATE, 0, 0, WINDOW.to_bytes(4)),
        ]

    @property
    def in_flight(self) -> int:
        """Calls that were begun and have not ended."""
        return len(self._begun) + len(self._waiting)

    def begin(self, message: bytes, now: float) -> None:
        """Begins a call with a message in its gRPC frame; nothing is sent before `flush`."""
        self._waiting.append((now, message))

    def flush(self) -> None:
        """Sends what may be sent."""
        while self._parts or (self._waiting and len(self._begun) < MOST):
            if not self._parts:
                self._open(*self._waiting.popleft())
            stream, flags, part = self._parts[0]
            if len(part) > self._window:
                break
            self._window -= len(part)
            self._out.append(_frame(DATA, flags, stream, part))
            self._parts.popleft()
        if self._out:
            self.socket.sendall(b"".join(self._out))
            self._out.clear()

    def receive(self) -> list[float]:
        """Reads once; returns when the calls that ended well were begun, raises Wrong if one did not."""
        read = self.socket.recv(1 << 18)
        if not read:
            raise Wrong("the server closed the connection")
        data, position, ended = self._rest + read, 0, []
        while position + HEAD <= len(data):
            end = position + HEAD + int.from_bytes(data[position : position + 3])
            if end > len(data):
                break
            kind, flags = data[position + 3], data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + HEAD])
            if kind == DATA:
                self._count(stream, end - position - HEAD)
            elif kind == HEADERS and flags & END_STREAM:
                ended.append(self._ended(stream))
            elif kind != HEADERS:
                self._control(kind, flags, stream, data[position + HEAD : end])
            position = end
        self._rest = data[position:]
        return ended

    def _open(self, begun: float, message: bytes) -> None:
        stream = self._stream
        self._stream += 2
        self._begun[stream], self._missing[stream] = begun, self._answer
        self._out.append(_frame(HEADERS, END_HEADERS, stream, self._headers))
        for start in range(0, len(message), FRAME):
            last = END_STREAM if start + FRAME >= len(message) else 0
            self._parts.append((stream, last, message[start : start + FRAME]))

    def _count(self, stream: int, size: int) -> None:
        self._missing[stream] -= size
        self._used += size
        if self._used > WINDOW // 2:
            self._out.append(_frame(WINDOW_UPDATE, 0, 0, self._used.to_bytes(4)))
            self._used = 0

    def _ended(self, stream: int) -> float:
        # An error has no message, and every answer has the same size, so that no header needs to be decoded.
        if missing := self._missing.pop(stream):
            raise Wrong(f"expected an answer of {self._answer} bytes, received {self._answer - missing}")
        return self._begun.pop(stream)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._out.append(_frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._out.append(_frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind in {RESET, GOAWAY, CONTINUATION}:
            raise Wrong(f"expected answers, received frame {kind} with {payload.hex()}")


def framed(message: bytes) -> bytes:
    """Returns a message as gRPC sends it: a compressed flag and a big-endian length before it."""
    return b"\0" + len(message).to_bytes(4) + message


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return b"".join((len(payload).to_bytes(3), bytes((kind, flags)), stream.to_bytes(4), payload))


def _headers(path: str, authority: str) -> bytes:
    """Returns a header block that leaves no trace in the peer's table: RFC 7541, 6.1 and 6.2.2."""
    post, http = b"\x83", b"\x86"
    named = ((b"\x04", path), (b"\x01", authority), (b"\x0f\x10", "application/grpc"))
    return b"".join(
        (post, http, *(name + _text(value) for name, value in named), b"\x00", _text("te"), _text("trailers"))
    )


def _text(value: str) -> bytes:
    # Lengths from 127 on need more bytes than one.
    if len(value) >= 127:
        raise ValueError(f"expected fewer than 127 characters, received {value!r}")
    return bytes((len(value),)) + value.encode()
