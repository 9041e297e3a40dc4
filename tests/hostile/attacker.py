"""A client of HTTP/2 that sends forgeries, many at a time, and waits for what becomes of each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_to_bytes

import ngh2
from hostile.forgeries import Forgery

# An answer that takes longer is a hang.
PATIENCE = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of a call: a number of grpc-status, or "http 415", or "reset 8"; and the status's text."""

    status: str
    text: bytes = b""


HUNG = Outcome("hung")


class Gone(ConnectionError):
    """The server has closed the connection."""


class Attacker:
    """One connection."""

    def __init__(self, address: str, window: int = 1 << 20) -> None:
        """Takes the bytes of answers that it takes on each stream."""
        host, port = address.rsplit(":", 1)
        self.link = socket.create_connection((host, int(port)))
        self.link.setblocking(False)
        self._loop = asyncio.get_running_loop()
        # What a client checks of its own headers would be in the way; ngh2 checks less than it could.
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT, ngh2.Configuration(max_send_header_block_length=1 << 20))
        self.http2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: window})
        self._fields: dict[int, dict[bytes, bytes]] = {}
        self._done: dict[int, Outcome] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    async def send(self, forgeries: Sequence[Forgery]) -> list[Outcome]:
        """Sends calls together; returns what became of each. Raises Gone."""
        streams = [self.begin(forgery) for forgery in forgeries]
        await self.flush()
        return [await self.outcome(stream) for stream in streams]

    def begin(self, forgery: Forgery) -> int:
        """Makes a call ready to be sent; returns its stream."""
        stream = self.http2.send_request(headers(forgery))
        self.http2.send_data(stream, forgery.body, end_stream=True)
        return stream

    async def outcome(self, stream: int) -> Outcome:
        """Waits for what becomes of a call."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while stream not in self._done:
                    await self.receive()
                    await self.flush()
        return self._done.pop(stream, HUNG)

    async def flush(self) -> None:
        """Writes everything."""
        data = self.http2.data_to_send()
        if data:
            await self._loop.sock_sendall(self.link, data)

    async def receive(self) -> None:
        """Reads once."""
        data = await self._loop.sock_recv(self.link, 1 << 18)
        if not data:
            raise Gone
        self.http2.receive_data(data)
        for event in self.http2.events():
            match event:
                case ngh2.ResponseReceived() | ngh2.TrailersReceived():
                    self._fields.setdefault(event.stream_id, {}).update(event.headers)
                case ngh2.StreamReset():
                    self._done.setdefault(event.stream_id, self._outcome(event.stream_id, event.error_code))
                case ngh2.StreamClosed():
                    self._done.setdefault(event.stream_id, self._outcome(event.stream_id, event.error_code))
                    self._fields.pop(event.stream_id, None)
                case ngh2.GoAwayReceived():
                    raise Gone
                case _:
                    pass

    def _outcome(self, stream: int, code: int) -> Outcome:
        fields = self._fields.get(stream, {})
        if b"grpc-status" in fields:
            return Outcome(fields[b"grpc-status"].decode(), unquote_to_bytes(fields.get(b"grpc-message", b"")))
        if fields.get(b":status", b"200") != b"200":
            return Outcome(f"http {fields[b':status'].decode()}")
        return Outcome(f"reset {code}")


def headers(forgery: Forgery) -> Iterable[tuple[bytes, bytes]]:
    """Returns a call's header fields."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": forgery.path,
        b":authority": b"test",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    return (fields | dict(forgery.fields)).items()
