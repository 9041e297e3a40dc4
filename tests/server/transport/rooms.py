"""A service for tests behind every transport, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from gnomon_server.errors import Exhausted, InvalidRequest
from gnomon_server.serving.transport import Call, Methods, Stream, Transport, Unary
from gnomon_server.serving.transport.grpcio import GrpcioTransport
from gnomon_server.serving.transport.http2 import Http2Transport
from gnomon_server.serving.transport.tls import Tls

Maker = Callable[..., Transport]
MAKERS: tuple[Maker, ...] = (GrpcioTransport, Http2Transport)
LIMIT = 16 << 20
CERTIFICATES = Path(__file__).parents[2] / "client" / "certificates"
TLS = Tls(CERTIFICATES / "server.pem", CERTIFICATES / "server.key")
MUTUAL = Tls(CERTIFICATES / "server.pem", CERTIFICATES / "server.key", CERTIFICATES / "authority.pem")
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
# The texts of grpc's own interoperability tests.
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


@dataclass
class House:
    """The methods, and what became of calls."""

    observed: list[tuple[str, str]] = field(default_factory=list)
    held: list[Call] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    # Messages that streams have taken.
    taken: int = 0

    def methods(self) -> Methods:
        return {
            "test.House/Echo": Unary(self._echo),
            "test.House/Empty": Unary(lambda call: call.answer(b"")),
            "test.House/Size": Unary(lambda call: call.answer(str(len(call.message)).encode())),
            "test.House/Bytes": Unary(lambda call: call.answer(b"x" * int(call.message))),
            "test.House/Fail": Unary(self._fail),
            "test.House/Hold": Unary(self._hold),
            "test.House/Echoes": Stream(self._echoes),
            "test.House/Count": Stream(self._count),
            "test.House/Sum": Stream(self._sum),
            "test.House/Slow": Stream(self._slow),
            "test.House/Leave": Stream(self._leave),
            "test.House/FailLate": Stream(self._fail_late),
            "test.House/Greet": Stream(self._greet),
            "test.House/Drop": Stream(self._drop),
        }

    def observe(self, ended: Sequence[tuple[Call, str]]) -> None:
        self.observed += [(call.method.rpartition("/")[2], status) for call, status in ended]

    def _echo(self, call: Call) -> None:
        decorate(call)
        call.answer(call.message)

    def _fail(self, call: Call) -> None:
        decorate(call)
        raise InvalidRequest(call.message.decode())

    def _hold(self, call: Call) -> None:
        self.held.append(call)
        self.arrived.set()

    async def _echoes(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        decorate(call)
        async for message in messages:
            self.taken += 1
            yield message

    async def _count(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Takes sizes, and answers each with a message of that size."""
        async for message in messages:
            for size in message.split():
                self.taken += 1
                yield b"x" * int(size)

    async def _sum(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield str(sum([len(message) async for message in messages])).encode()

    async def _slow(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.arrived.set()
        await asyncio.Event().wait()
        async for message in messages:
            yield message

    async def _leave(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Reads one message and ends."""
        async for message in messages:
            yield message
            break

    async def _greet(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Speaks first."""
        yield b"hello"
        async for message in messages:
            yield message

    async def _drop(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Takes one message, lets go of it, and never ends."""
        async for message in messages:
            self.taken += 1
            del message
            await asyncio.Event().wait()
            yield b""

    async def _fail_late(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        decorate(call)
        async for message in messages:
            if message == b"fail":
                raise Exhausted("enough")
            yield message


def decorate(call: Call) -> None:
    """Sends back the metadata of grpc's custom_metadata test."""
    text, raw = call.metadata("x-grpc-test-echo-initial"), call.binary_metadata("x-grpc-test-echo-trailing-bin")
    if text is not None:
        call.initial = [("x-grpc-test-echo-initial", text)]
    if raw is not None:
        call.trailing = [("x-grpc-test-echo-trailing-bin", raw)]


@asynccontextmanager
async def serving(maker: Maker, house: House, address: str = "127.0.0.1:0", **how: Any) -> AsyncIterator[str]:
    """Serves the house; yields where."""
    transport = maker(house.methods(), house.observe, lambda: None, address, LIMIT, **how)
    port = await transport.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        await transport.drain(0)


@asynccontextmanager
async def channel(
    target: str, options: Sequence[tuple[str, Any]] = (), credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with connections of its own."""
    every = (*OPTIONS, *options)
    made = (
        grpc.aio.insecure_channel(target, options=every)
        if credentials is None
        else grpc.aio.secure_channel(target, credentials, options=every)
    )
    async with made as opened:
        yield opened


def unary(wire: grpc.aio.Channel, method: str, message: bytes = b"", **how: Any) -> Any:
    """Begins a unary call."""
    made: Any = wire.unary_unary(f"/test.House/{method}")
    return made(message, timeout=how.pop("timeout", 60), **how)


def stream(wire: grpc.aio.Channel, method: str, **how: Any) -> Any:
    """Begins a stream."""
    made: Any = wire.stream_stream(f"/test.House/{method}")
    return made(timeout=how.pop("timeout", 60), **how)


async def status(call: Any) -> tuple[str, str]:
    """Waits for the end of a call; returns its status and text."""
    return (await call.code()).name, await call.details() or ""


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)
