"""A streaming call and the task that handles it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final, Protocol

from gnomon_server.errors import GnomonError, Internal
from gnomon_server.serving.transport import Call, Stream
from gnomon_server.serving.transport.http2.call import Http2Call, Wire

log = logging.getLogger(__name__)

# Bytes that a stream may have waiting before its handler pauses.
QUEUED: Final = 1 << 20


class StreamWire(Wire, Protocol):
    """A connection, as its streaming calls see it."""

    # Set whenever the client may have taken something.
    room: asyncio.Event

    @property
    def clogged(self) -> bool:
        """Whether so much waits for the client to read that everything has to wait."""

    def consumed(self, stream: int, message: bytes) -> None:
        """Takes that a handler has taken a message."""

    def send(self, call: Http2Call, message: bytes) -> None:
        """Sends one of several messages."""

    def queued(self, stream: int) -> int:
        """Returns the bytes of a stream that wait for the client."""


class Streaming:
    """Hands a call's messages to its handler, and the handler's to the client, neither faster than they are taken."""

    def __init__(self, wire: StreamWire, call: Http2Call, method: Stream) -> None:
        self._wire = wire
        self._call = call
        self._method = method
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.task = asyncio.create_task(self._handle())

    def put(self, message: bytes | None) -> None:
        """Takes the next message, or None for the end of them."""
        self._inbox.put_nowait(message)

    async def _handle(self) -> None:
        call = self._call
        try:
            async with aclosing(self._method.handle(call, self._messages())) as answers:  # type: ignore[type-var]
                async for message in answers:
                    await self._send(message)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status, never a stack trace
            call.fail(known(call, error))
        else:
            if not call.ended:
                self._wire.finish(call, "OK", "")

    async def _messages(self) -> AsyncIterator[bytes]:
        """Yields the messages; only those that were taken make room for more."""
        while (message := await self._inbox.get()) is not None:
            self._wire.consumed(self._call.stream, message)
            # Nothing here keeps what the handler lets go of, however long it takes over it.
            given = [message]
            del message
            yield given.pop()

    async def _send(self, message: bytes) -> None:
        """Sends a message; returns once there is room for the next."""
        wire, call = self._wire, self._call
        wire.send(call, message)
        while not call.ended and (wire.queued(call.stream) > QUEUED or wire.clogged):
            wire.room.clear()
            await wire.room.wait()


def known(call: Call, error: Exception) -> GnomonError:
    """Returns what a client may know of an error."""
    if isinstance(error, GnomonError):
        return error
    log.error("%s failed", call.method, exc_info=error)
    return Internal("internal error")
