"""A call on a stream of a connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from gnomon_server.errors import GnomonError
from gnomon_server.serving.transport import Call
from gnomon_server.serving.transport.http2.arrivals import Headers
from gnomon_server.serving.transport.http2.metadata import incoming_binary, incoming_text

if TYPE_CHECKING:
    from gnomon_server.serving.transport.http2.connection import Connection


class Http2Call(Call):
    """A call; belongs to the event loop of its connection."""

    # What the deadlines need to forget it; 0 without one.
    tick = 0

    def __init__(
        self,
        connection: Connection,
        stream: int,
        headers: Headers,
        method: str,
        timeout: float | None,
        message: bytes,
        came: tuple[float, int],
    ) -> None:
        super().__init__(method, message, *came)
        self._connection = connection
        self._headers = headers
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.stream = stream

    def metadata(self, key: str) -> str | None:
        """Returns the first text value of a metadata key, or None."""
        return incoming_text(self._headers, key)

    def binary_metadata(self, key: str) -> bytes | None:
        """Returns the first value of a "-bin" key, or None."""
        return incoming_binary(self._headers, key)

    def peer(self) -> str:
        """Returns the peer's address as gRPC prints it."""
        return self._connection.peer

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, or None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def answer(self, message: bytes) -> None:
        """Ends the call with OK; does nothing if it is over."""
        if not self.ended:
            self._connection.answer(self, message)

    def fail(self, error: GnomonError) -> None:
        """Ends the call with an error's status and text; does nothing if it is over."""
        if not self.ended:
            self._connection.finish(self, error.status, str(error))

    def expire(self) -> None:
        """Ends the call because its deadline has passed."""
        self._connection.expire(self)


class Inbox:
    """The messages of a streaming call on their way to its handler."""

    def __init__(self, connection: Connection, stream: int) -> None:
        self._connection, self._stream = connection, stream
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(self, message: bytes | None) -> None:
        """Takes the next message, or None for the end of them."""
        self._queue.put_nowait(message)

    async def messages(self) -> AsyncIterator[bytes]:
        """Yields the messages; only those that were taken make room for more."""
        while (message := await self._queue.get()) is not None:
            self._connection.consumed(self._stream, message)
            yield message
