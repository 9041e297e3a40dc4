"""A message channel over one end of a Unix socket pair: a 4-byte length and a msgpack body each."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from gnomon_server.wire.messages import FromChild, ToChild

_LENGTH = struct.Struct("<I")
Received = TypeVar("Received")


class Channel(Generic[Received]):
    """One end of a channel; owned by the event loop that opened it.

    `receive` returns None once the other end is closed, which is how a child learns that control has died.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[Received],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder
        self._encoder = msgspec.msgpack.Encoder()

    def send(self, message: ToChild | FromChild) -> None:
        """Queues a message without waiting; one sent after the other end closed is lost, as the other end is."""
        body = self._encoder.encode(message)
        self._writer.write(_LENGTH.pack(len(body)) + body)

    async def flush(self) -> None:
        """Waits until what was sent has left this process or cannot."""
        with suppress(ConnectionError):
            await self._writer.drain()

    async def receive(self) -> Received | None:
        """Returns the next message, or None at the end."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Closes this end."""
        self._writer.close()


async def open_parent(end: socket.socket) -> Channel[FromChild]:
    """Opens control's end: plans out, reports in."""
    reader, writer = await asyncio.open_unix_connection(sock=end)
    return Channel(reader, writer, msgspec.msgpack.Decoder(FromChild))


async def open_child(descriptor: int) -> Channel[ToChild]:
    """Opens a child's end from the inherited file descriptor: reports out, plans in."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=descriptor))
    return Channel(reader, writer, msgspec.msgpack.Decoder(ToChild))
