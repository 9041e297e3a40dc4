"""A call on a stream of a connection."""

from __future__ import annotations

import time
from typing import Protocol

from gnomon_server.errors import GnomonError
from gnomon_server.serving.transport import Call
from gnomon_server.serving.transport.http2.head import Head
from gnomon_server.serving.transport.http2.metadata import incoming_binary, incoming_text


class Wire(Protocol):
    """A connection, as its calls see it."""

    # As gRPC prints it.
    peer: str

    def answer(self, call: Http2Call, message: bytes) -> None:
        """Ends a unary call with OK."""

    def finish(self, call: Http2Call, status: str, text: str) -> None:
        """Ends a call with a status."""

    def expire(self, call: Http2Call) -> None:
        """Ends a call whose deadline has passed."""


class Http2Call(Call):
    """A call; belongs to the event loop of its connection."""

    # What the deadlines need to forget it; 0 without one.
    tick = 0

    def __init__(
        self,
        wire: Wire,
        stream: int,
        method: str,
        head: Head,
        message: bytes,
        came: tuple[float, int],
    ) -> None:
        # What the base would do: this is made for every call.
        self.method, self.message = method, message
        self.start, self.start_ns = came
        self._wire = wire
        self._head = head
        self._deadline = None if head.timeout is None else time.monotonic() + head.timeout
        self.stream = stream

    def metadata(self, key: str) -> str | None:
        """Returns the first text value of a metadata key, or None."""
        return incoming_text(self._head.fields, key)

    def binary_metadata(self, key: str) -> bytes | None:
        """Returns the first value of a "-bin" key, or None."""
        return incoming_binary(self._head.fields, key)

    def peer(self) -> str:
        """Returns the peer's address as gRPC prints it."""
        return self._wire.peer

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, or None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def answer(self, message: bytes) -> None:
        """Ends the call with OK; does nothing if it is over."""
        if not self.ended:
            self._wire.answer(self, message)

    def fail(self, error: GnomonError) -> None:
        """Ends the call with an error's status and text; does nothing if it is over."""
        if not self.ended:
            self._wire.finish(self, error.status, str(error))

    def expire(self) -> None:
        """Ends the call because its deadline has passed."""
        self._wire.expire(self)
