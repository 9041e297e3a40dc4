"""The loop around the sessions: addresses, slow and hostile clients, thousands of connections, and the end."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import ngh2
import pytest
import uvloop
from server.transport.peer import PREFACE, frame, framed, headers
from server.transport.rooms import LIMIT, MAKERS, House, Maker, channel, serving, status, stream, unary, until

from gnomon_server.serving.transport import Call, Unary
from gnomon_server.serving.transport.http2 import Http2Transport
from gnomon_server.serving.transport.http2.limits import Limits

ECHO, BYTES, COUNT = b"/test.House/Echo", b"/test.House/Bytes", b"/test.House/Count"


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Maker:
    made: Maker = request.param
    return made


def peer(call: Call) -> None:
    call.answer(call.peer().encode())


@asynccontextmanager
async def peers(maker: Maker, address: str) -> AsyncIterator[tuple[grpc.aio.Channel, int]]:
    transport = maker({"test.House/Peer": Unary(peer)}, lambda *_: None, lambda: None, address, LIMIT)
    port = await transport.start()
    target = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    async with channel(target) as wire:
        yield wire, port
    await transport.drain(0)


async def test_an_ipv6_address_is_an_address(maker: Maker) -> None:
    async with peers(maker, "[::1]:0") as (wire, _):
        assert (await unary(wire, "Peer")).startswith(b"ipv6:%5B::1%5D:")


async def test_every_address_takes_ipv4_too(maker: Maker) -> None:
    async with peers(maker, "[::]:0") as (_, port), channel(f"127.0.0.1:{port}") as wire:
        assert b"127.0.0.1" in await unary(wire, "Peer")


async def test_a_unix_socket_is_an_address_also_where_a_dead_server_left_one(maker: Maker, tmp_path: Path) -> None:
    path = tmp_path / "gnomon.sock"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    async with peers(maker, f"unix:{path}") as (wire, port):
        assert port
        assert (await unary(wire, "Peer")).startswith(b"unix:")


@pytest.mark.parametrize("size", [0, 1, 70_000, 10 << 20])
async def test_large_messages_pass_both_ways_at_once(size: int, maker: Maker) -> None:
    message = random.Random(size).randbytes(size)
    async with serving(maker, House()) as target, channel(target) as wire:
        assert await asyncio.gather(*[unary(wire, "Echo", message) for _ in range(4)]) == [message] * 4


class Raw:
    """A client on a socket that does only what it is told to."""

    def __init__(self, target: str, window: int = 65535, buffer: int | None = None) -> None:
        self.link = socket.socket()
        if buffer is not None:
            self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.link.connect(("127.0.0.1", int(target.rpartition(":")[2])))
        self.link.setblocking(False)
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self.http2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: window})
        if window > 65535:
            self.http2.set_local_window_size(window)

    def call(self, path: bytes, *messages: bytes, end: bool = True) -> int:
        number = self.http2.send_request(headers(path))
        self.http2.send_data(number, b"".join(framed(message) for message in messages), end_stream=end)
        return number

    async def write(self, data: bytes | None = None) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self.link, self.http2.data_to_send() if data is None else data)

    async def read(self) -> list[ngh2.Event]:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.link, 1 << 20), 60)
        if not data:
            raise ConnectionResetError
        # A client that has nothing left to do takes no more bytes.
        with suppress(ngh2.ConnectionStateError):
            self.http2.receive_data(data)
        return self.http2.events()

    async def ended(self) -> list[ngh2.Event]:
        """Reads until the server closes."""
        events: list[ngh2.Event] = []
        while True:
            try:
                events += await self.read()
            except ConnectionError:
                return events


@asynccontextmanager
async def raw(target: str, **how: Any) -> AsyncIterator[Raw]:
    made = Raw(target, **how)
    try:
        yield made
    finally:
        made.link.close()


async def test_a_slow_reader_stops_a_stream_and_nobody_else() -> None:
    house = House()
    async with serving(Http2Transport, house) as target, raw(target, window=1 << 30, buffer=4096) as slow:
        slow.call(COUNT, b"100000 " * 1000)
        await slow.write()
        await until(lambda: house.taken > 0)
        async with channel(target) as wire:
            for _ in range(50):
                assert await unary(wire, "Echo", b"x") == b"x"
            stopped = house.taken
            assert stopped < 500
            for _ in range(20):
                assert await unary(wire, "Echo", b"x") == b"x"
            assert house.taken == stopped
        received = 0
        while received < 1000 * 100_005:
            received += sum(len(event.data) for event in await slow.read() if isinstance(event, ngh2.DataReceived))
            await slow.write()
        assert house.taken == 1000


async def test_a_stream_that_stays_open_keeps_nothing_of_the_messages_that_were_taken() -> None:
    house = House()
    async with serving(Http2Transport, house) as target, channel(target) as wire:
        message = bytes(1 << 20)
        tracemalloc.start()
        try:
            calls = [stream(wire, "Drop") for _ in range(20)]
            for call in calls:
                await call.write(message)
            await until(lambda: house.taken == len(calls))
            assert tracemalloc.get_traced_memory()[0] < 5 << 20
        finally:
            tracemalloc.stop()
        for call in calls:
            call.cancel()


async def test_a_client_that_reads_no_answers_gets_no_more_of_them_until_it_does() -> None:
    house = House()
    async with serving(Http2Transport, house) as target, raw(target, window=1 << 30, buffer=4096) as slow:
        streams = [slow.call(BYTES, str(LIMIT).encode()) for _ in range(12)]
        await slow.write()
        async with channel(target) as wire:
            await until(lambda: len(house.observed) > 0)
            for _ in range(50):
                assert await unary(wire, "Empty") == b""
        answered = [method for method, _ in house.observed].count("Bytes")
        # Four of the largest messages may wait; what the socket takes makes room for one more.
        assert answered <= 6
        received = dict.fromkeys(streams, 0)
        while sum(received.values()) < 12 * (LIMIT + 5):
            for event in await slow.read():
                if isinstance(event, ngh2.DataReceived):
                    received[event.stream_id] += len(event.data)
            await slow.write()
        assert set(received.values()) == {LIMIT + 5}


async def test_a_connection_whose_window_is_shut_still_hears_its_client() -> None:
    house = House()
    async with serving(Http2Transport, house) as target, raw(target, window=0) as slow:
        streams = [slow.call(BYTES, str(LIMIT).encode()) for _ in range(10)]
        await slow.write()
        await until(lambda: len(house.observed) >= 4)
        assert house.observed == [("Bytes", "OK")] * 4
        for number in streams[:8]:
            slow.http2.reset_stream(number)
        await slow.write()
        # With what was cancelled out of the way, the others are taken.
        await until(lambda: len(house.observed) == 10)
        assert house.observed[4:] == [("Bytes", "CANCELLED")] * 4 + [("Bytes", "OK")] * 2


async def test_calls_that_wait_behind_unread_answers_end_with_their_connection() -> None:
    house = House()
    async with serving(Http2Transport, house) as target:
        async with raw(target, window=0) as slow:
            for _ in range(10):
                slow.call(BYTES, str(LIMIT).encode())
            await slow.write()
            await until(lambda: len(house.observed) >= 4)
        await until(lambda: len(house.observed) == 10)
        assert house.observed == [("Bytes", "OK")] * 4 + [("Bytes", "CANCELLED")] * 6


async def test_an_answer_after_the_client_has_gone_goes_nowhere() -> None:
    house = House()
    async with serving(Http2Transport, house) as target:
        async with raw(target) as client:
            client.call(b"/test.House/Hold", b"x")
            await client.write()
            await asyncio.wait_for(house.arrived.wait(), 60)
        await until(lambda: house.held[0].ended)
        house.held[0].answer(b"late")
        assert house.observed == [("Hold", "CANCELLED")]
        async with channel(target) as wire:
            assert await unary(wire, "Echo", b"x") == b"x"


async def test_a_pass_that_fails_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    failing = [True]

    def after_pass() -> None:
        if failing[0]:
            raise ValueError("broken pass")

    transport = Http2Transport(house.methods(), house.observe, after_pass, "127.0.0.1:0", LIMIT)
    port = await transport.start()
    async with channel(f"127.0.0.1:{port}") as wire:
        assert await unary(wire, "Echo", b"x") == b"x"
        failing.clear()
        failing.append(False)
        assert await unary(wire, "Echo", b"y") == b"y"
    await transport.drain(0)
    assert "broken pass" in caplog.text


def noise(seed: int) -> bytes:
    chance = random.Random(seed)
    kind = seed % 5
    if kind == 0:
        return chance.randbytes(5000)
    if kind == 1:
        return b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    if kind == 2:
        return PREFACE + frame(4, 0, 0) + chance.randbytes(5000)
    if kind == 3:
        frames = [frame(chance.randrange(12), chance.randrange(256), chance.randrange(8), b"\0" * chance.randrange(30))]
        return PREFACE + frame(4, 0, 0) + b"".join(frames * 100)
    return PREFACE + frame(4, 0, 0) + frame(4, 0, 0, struct.pack(">HI", 4, 5)) * 3000


async def test_hostile_bytes_hurt_only_their_own_connection() -> None:
    house = House()
    async with serving(Http2Transport, house) as target, channel(target) as wire:
        for seed in range(60):
            async with raw(target) as client:
                try:
                    await client.write(noise(seed))
                except ConnectionError:
                    continue
            assert await unary(wire, "Echo", b"x") == b"x"


async def test_a_flood_of_pings_is_answered_with_a_reason_and_the_end() -> None:
    async with serving(Http2Transport, House()) as target, raw(target) as client:
        await client.write()
        await client.write(frame(6, 0, 0, b"12345678") * 200)
        events = await client.ended()
        goaway = [event for event in events if isinstance(event, ngh2.GoAwayReceived)]
        assert goaway[0].debug_data == b"too_many_pings"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_client_that_is_reset_as_it_speaks_leaves_nothing_behind(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def check() -> None:
        house = House()
        async with serving(Http2Transport, house) as target:
            before = files()
            for length in (1, 10, len(PREFACE)):
                with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))) as link:
                    # So that the server finds the bytes and the reset at once.
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    await asyncio.sleep(0.01)
                    link.sendall(PREFACE[:length])
            await until(lambda: files() == before)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(check())


async def test_a_client_that_the_loop_has_forgotten_is_heard_to_its_end() -> None:
    house = House()
    transport = Http2Transport(house.methods(), house.observe, lambda: None, "127.0.0.1:0", LIMIT)
    port = await transport.start()
    async with raw(f"127.0.0.1:{port}") as client:
        await until(lambda: bool(transport._connections))
        (connection,) = transport._connections
        asyncio.get_running_loop().remove_reader(connection._socket)
        await client.write()
    await until(lambda: not transport._connections)
    await transport.drain(0)


def files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that counts


async def test_without_file_descriptors_nothing_is_lost_but_time() -> None:
    house = House()
    async with serving(Http2Transport, house) as target, channel(target) as wire:
        assert await unary(wire, "Echo", b"x") == b"x"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that counts
        links: list[socket.socket] = []
        spare = [socket.socket() for _ in range(5)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare[-1].fileno() + 2, used), hard))
            for each in spare:
                each.connect(("127.0.0.1", int(target.rpartition(":")[2])))
                links.append(each)
            assert await unary(wire, "Echo", b"y") == b"y"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with channel(target) as later:
            assert await unary(later, "Echo", b"z") == b"z"
        for each in spare:
            each.close()


async def test_a_thousand_connections_are_served_at_once() -> None:
    house = House()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    async with serving(Http2Transport, house) as target:
        clients: list[Raw] = []
        try:
            for _ in range(1000):
                clients.append(Raw(target))
                clients[-1].call(ECHO, b"hello")
                await clients[-1].write()

            async def answer(client: Raw) -> bytes:
                body = b""
                while body != framed(b"hello"):
                    body += b"".join([e.data for e in await client.read() if isinstance(e, ngh2.DataReceived)])
                return body

            assert await asyncio.gather(*map(answer, clients)) == [framed(b"hello")] * 1000
        finally:
            for client in clients:
                client.link.close()
        await until(lambda: len(house.observed) == 1000)


async def load(target: str, stop: asyncio.Event, failures: list[str], count: list[int]) -> None:
    """Calls until told to stop; notes what failed."""
    async with channel(target) as wire:

        async def worker() -> None:
            while not stop.is_set():
                call = unary(wire, "Echo", b"x")
                name, text = await status(call)
                count[0] += 1
                if name != "OK":
                    failures.append(f"{name}: {text}")

        await asyncio.gather(*[worker() for _ in range(8)])


async def test_a_drain_under_load_loses_no_call_when_another_server_shares_the_address() -> None:
    house, other = House(), House()
    first = Http2Transport(house.methods(), house.observe, lambda: None, "127.0.0.1:0", LIMIT)
    port = await first.start()
    second = Http2Transport(other.methods(), other.observe, lambda: None, f"127.0.0.1:{port}", LIMIT)
    stop, failures, count = asyncio.Event(), list[str](), [0]
    loading = [asyncio.create_task(load(f"127.0.0.1:{port}", stop, failures, count)) for _ in range(4)]
    await until(lambda: count[0] > 200)
    assert await second.start() == port
    await asyncio.wait_for(first.drain(60), 60)
    served = len(house.observed)
    before = count[0]
    await until(lambda: count[0] > before + 200)
    stop.set()
    await asyncio.gather(*loading)
    await second.drain(0)
    assert failures == []
    assert len(house.observed) == served
    assert len(house.observed) + len(other.observed) == count[0]


async def test_a_drain_ends_when_the_last_answer_is_read() -> None:
    house = House()
    transport = Http2Transport(house.methods(), house.observe, lambda: None, "127.0.0.1:0", LIMIT)
    port = await transport.start()
    async with raw(f"127.0.0.1:{port}", window=1 << 30, buffer=4096) as slow:
        number = slow.call(BYTES, b"8000000")
        await slow.write()
        await until(lambda: len(house.observed) == 1)
        draining = asyncio.create_task(transport.drain(60))
        size, received = 8_000_005, 0
        while received < size:
            for event in await slow.read():
                if isinstance(event, ngh2.DataReceived):
                    assert event.stream_id == number
                    received += len(event.data)
            await slow.write()
        slow.link.close()
        await asyncio.wait_for(draining, 60)


async def test_a_drain_does_not_wait_for_clients_that_do_nothing() -> None:
    transport = Http2Transport(House().methods(), lambda *_: None, lambda: None, "127.0.0.1:0", LIMIT)
    port = await transport.start()
    async with raw(f"127.0.0.1:{port}") as silent, raw(f"127.0.0.1:{port}"):
        await silent.write()
        await silent.read()
        # Neither says a word to the farewell.
        await asyncio.wait_for(transport.drain(600), 60)


def closes(limits: Limits) -> Callable[[], Any]:
    async def run() -> None:
        async with serving(Http2Transport, House(), limits=limits) as target, raw(target) as client:
            client.call(ECHO, b"x")
            await client.write()
            events: list[ngh2.Event] = []
            while not any(isinstance(event, ngh2.GoAwayReceived) for event in events):
                events += await client.read()
                await client.write()
            events += await client.ended()
            assert any(isinstance(event, ngh2.DataReceived) and event.data == framed(b"x") for event in events)
            assert all(event.error_code == 0 for event in events if isinstance(event, ngh2.GoAwayReceived))

    return run


async def test_an_idle_connection_ends_after_its_time() -> None:
    await closes(Limits(idle_seconds=0.1))()


async def test_an_old_connection_ends_after_its_time() -> None:
    await closes(Limits(age_seconds=0.1))()


async def test_a_call_keeps_a_connection_from_being_idle() -> None:
    house = House()
    async with serving(Http2Transport, house, limits=Limits(idle_seconds=0.01)) as target, channel(target) as wire:
        call = stream(wire, "Echoes")
        for _ in range(3):
            await asyncio.sleep(0.6)
            await call.write(b"x")
            assert await call.read() == b"x"
        await call.done_writing()
        assert await status(call) == ("OK", "")
