"""What every transport does, whatever stands behind it: handlers in, statuses out, each call observed once."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any

import grpc
import grpc.aio
import pytest

from gnomon_server.errors import Exhausted, GnomonError, InvalidRequest, NotFound
from gnomon_server.serving.transport import AfterPass, Call, Methods, Observer, Stream, Transport, Unary
from gnomon_server.serving.transport.grpcio import GrpcioTransport
from gnomon_server.serving.transport.http2 import Http2Transport

Maker = Callable[[Methods, Observer, AfterPass, str, int], Transport]
TRANSPORTS: tuple[Maker, ...] = (GrpcioTransport, Http2Transport)
LIMIT = 1 << 20


class Bench:
    """The handlers, what they got, and what was observed."""

    def __init__(self) -> None:
        self.observed: list[tuple[str, str]] = []
        self.calls: list[Call] = []
        self.arrived = asyncio.Event()
        self.ended = asyncio.Event()
        self.passes = 0

    def methods(self) -> Methods:
        return {
            "test.Echo/Echo": Unary(self._echo),
            "test.Echo/Raise": Unary(self._raise),
            "test.Echo/Fail": Unary(lambda call: call.fail(NotFound("model 'x' not found"))),
            "test.Echo/Break": Unary(self._break),
            "test.Echo/Hold": Unary(self._hold),
            "test.Echo/Twice": Unary(self._twice),
            "test.Echo/Decorated": Unary(self._decorated),
            "test.Echo/Stream": Stream(self._stream),
        }

    def observe(self, ended: Sequence[tuple[Call, str]]) -> None:
        self.observed += [(call.method, status) for call, status in ended]
        self.ended.set()

    def after_pass(self) -> None:
        self.passes += 1

    def _echo(self, call: Call) -> None:
        call.answer(call.message)

    def _raise(self, call: Call) -> None:
        raise InvalidRequest(call.message.decode())

    def _break(self, _: Call) -> None:
        raise ValueError("secret")

    def _hold(self, call: Call) -> None:
        self.calls.append(call)
        self.arrived.set()

    def _twice(self, call: Call) -> None:
        call.answer(b"first")
        call.fail(NotFound("second"))
        call.answer(b"third")

    def _decorated(self, call: Call) -> None:
        call.initial = [("first", "one")]
        call.trailing = [("last", "two"), ("raw-bin", b"\x00\xff")]
        answer = f"{call.metadata('key')} {call.metadata('other')} {call.peer().split(':')[0]} {call.time_remaining()}"
        call.answer(answer.encode())

    async def _stream(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        self.calls.append(call)
        async for message in messages:
            if message == b"wait":
                self.arrived.set()
                await asyncio.Event().wait()
            if message == b"raise":
                raise Exhausted("enough")
            if message == b"break":
                raise ValueError("secret")
            yield message


@pytest.fixture(params=TRANSPORTS, ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Maker:
    made: Maker = request.param
    return made


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.fixture
async def wire(maker: Maker, bench: Bench) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(maker, bench) as (_, channel):
        yield channel


@asynccontextmanager
async def serving(maker: Maker, bench: Bench) -> AsyncIterator[tuple[Transport, grpc.aio.Channel]]:
    transport = maker(bench.methods(), bench.observe, bench.after_pass, "127.0.0.1:0", LIMIT)
    port = await transport.start()
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield transport, channel
    await transport.drain(0)


def begun(channel: grpc.aio.Channel, method: str, message: bytes = b"", **how: Any) -> Any:
    unary: Any = channel.unary_unary(f"/test.Echo/{method}")
    return unary(message, timeout=how.pop("timeout", 30), **how)


async def refusal(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code().name, raised.value.details() or ""


async def told(bench: Bench) -> list[tuple[str, str]]:
    """Waits for the first end of a call, and leaves time for a wrong second one."""
    await asyncio.wait_for(bench.ended.wait(), 30)
    for _ in range(20):
        await asyncio.sleep(0)
    return bench.observed


async def test_an_answer_is_an_answer(bench: Bench, wire: grpc.aio.Channel) -> None:
    assert await begun(wire, "Echo", b"hello") == b"hello"
    assert await begun(wire, "Echo", b"") == b""
    assert await told(bench) == [("test.Echo/Echo", "OK")] * 2
    assert bench.passes >= 1


@pytest.mark.parametrize(
    ("method", "message", "status", "text"),
    [
        ("Raise", b"input 'x': wrong", "INVALID_ARGUMENT", "input 'x': wrong"),
        ("Fail", b"", "NOT_FOUND", "model 'x' not found"),
    ],
)
async def test_an_error_has_its_status_and_its_text(
    method: str, message: bytes, status: str, text: str, bench: Bench, wire: grpc.aio.Channel
) -> None:
    assert await refusal(begun(wire, method, message)) == (status, text)
    assert await told(bench) == [(f"test.Echo/{method}", status)]


async def test_a_text_that_is_too_long_for_a_trailer_is_cut(bench: Bench, wire: grpc.aio.Channel) -> None:
    _, text = await refusal(begun(wire, "Raise", b"x" * 100_000))
    assert text == "x" * 1024


async def test_an_unexpected_exception_tells_nothing_but_the_log(
    bench: Bench, wire: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    assert await refusal(begun(wire, "Break")) == ("INTERNAL", "internal error")
    assert await told(bench) == [("test.Echo/Break", "INTERNAL")]
    assert "secret" in caplog.text


@pytest.mark.parametrize("path", ["/test.Echo/Nothing", "/other.Service/Nothing"])
async def test_a_method_that_is_not_in_the_table_is_counted_under_no_name(
    path: str, bench: Bench, wire: grpc.aio.Channel
) -> None:
    unary: Any = wire.unary_unary(path)
    assert await refusal(unary(b"", timeout=30)) == ("UNIMPLEMENTED", "method 'Nothing' is not offered")
    assert await told(bench) == [("_OTHER", "UNIMPLEMENTED")]


async def test_only_the_first_end_of_a_call_counts(bench: Bench, wire: grpc.aio.Channel) -> None:
    assert await begun(wire, "Twice") == b"first"
    assert await told(bench) == [("test.Echo/Twice", "OK")]


async def test_a_call_that_is_cancelled_is_observed_once_and_its_late_answer_goes_nowhere(
    bench: Bench, wire: grpc.aio.Channel
) -> None:
    call = begun(wire, "Hold")
    await asyncio.wait_for(bench.arrived.wait(), 30)
    assert not bench.calls[0].ended
    call.cancel()
    await asyncio.wait_for(bench.ended.wait(), 30)
    assert bench.calls[0].ended
    bench.calls[0].answer(b"late")
    bench.calls[0].fail(NotFound("later"))
    assert await told(bench) == [("test.Echo/Hold", "CANCELLED")]


async def test_a_call_whose_deadline_passes_is_observed_as_such(bench: Bench, wire: grpc.aio.Channel) -> None:
    call = begun(wire, "Hold", timeout=0.2)
    await asyncio.wait_for(bench.arrived.wait(), 30)
    remaining = bench.calls[0].time_remaining()
    assert remaining is not None
    assert 0 <= remaining <= 0.21
    assert (await refusal(call))[0] == "DEADLINE_EXCEEDED"
    assert await told(bench) == [("test.Echo/Hold", "DEADLINE_EXCEEDED")]
    bench.calls[0].answer(b"late")


async def test_a_client_that_vanishes_cancels_its_calls(maker: Maker, bench: Bench) -> None:
    async with serving(maker, bench) as (_, channel):
        call = begun(channel, "Hold")
        await asyncio.wait_for(bench.arrived.wait(), 30)
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await told(bench) == [("test.Echo/Hold", "CANCELLED")]


async def test_calls_end_in_any_order(bench: Bench, wire: grpc.aio.Channel) -> None:
    waiting = [asyncio.ensure_future(begun(wire, "Hold", bytes([number]))) for number in range(5)]
    while len(bench.calls) < len(waiting):
        bench.arrived.clear()
        await asyncio.wait_for(bench.arrived.wait(), 30)
    for call in reversed(bench.calls):
        call.answer(call.message)
    assert await asyncio.gather(*waiting) == [bytes([number]) for number in range(5)]


async def test_metadata_peer_and_deadline_reach_the_handler_and_its_metadata_the_client(
    bench: Bench, wire: grpc.aio.Channel
) -> None:
    unary: Any = wire.unary_unary("/test.Echo/Decorated")
    call = unary(b"", metadata=(("key", "value"), ("key", "second"), ("key-bin", b"\x00")))
    assert await call == b"value None ipv4 None"
    assert dict(await call.initial_metadata())["first"] == "one"
    trailing = dict(await call.trailing_metadata())
    assert (trailing["last"], trailing["raw-bin"]) == ("two", b"\x00\xff")


async def test_a_message_above_the_limit_never_reaches_a_handler(bench: Bench, wire: grpc.aio.Channel) -> None:
    assert (await refusal(begun(wire, "Hold", b"x" * (LIMIT + 1))))[0] == "RESOURCE_EXHAUSTED"
    assert bench.calls == []
    large = b"x" * (LIMIT - 1)
    assert await begun(wire, "Echo", large) == large


async def test_a_stream_echoes_until_the_client_ends_it(bench: Bench, wire: grpc.aio.Channel) -> None:
    stream: Any = wire.stream_stream("/test.Echo/Stream")
    call = stream(timeout=30)
    for message in (b"one", b"", b"two"):
        await call.write(message)
        assert await call.read() == message
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await told(bench) == [("test.Echo/Stream", "OK")]


@pytest.mark.parametrize(
    ("message", "status", "text"),
    [(b"raise", "RESOURCE_EXHAUSTED", "enough"), (b"break", "INTERNAL", "internal error")],
)
async def test_an_error_ends_a_stream_with_its_status(
    message: bytes, status: str, text: str, bench: Bench, wire: grpc.aio.Channel
) -> None:
    stream: Any = wire.stream_stream("/test.Echo/Stream")
    call = stream(timeout=30)
    await call.write(b"one")
    assert await call.read() == b"one"
    await call.write(message)
    assert await refusal(call.read()) == (status, text)
    assert await told(bench) == [("test.Echo/Stream", status)]


async def test_a_stream_that_is_cancelled_is_observed_once(bench: Bench, wire: grpc.aio.Channel) -> None:
    stream: Any = wire.stream_stream("/test.Echo/Stream")
    call = stream(timeout=30)
    await call.write(b"wait")
    await asyncio.wait_for(bench.arrived.wait(), 30)
    call.cancel()
    assert await told(bench) == [("test.Echo/Stream", "CANCELLED")]


async def test_a_drain_waits_for_the_calls_in_flight_and_takes_no_new_ones(maker: Maker, bench: Bench) -> None:
    async with serving(maker, bench) as (transport, channel):
        held = asyncio.ensure_future(begun(channel, "Hold"))
        await asyncio.wait_for(bench.arrived.wait(), 30)
        draining = asyncio.create_task(transport.drain(60))
        refused = "OK"
        while refused == "OK":
            # The drain has begun once a new call is not taken; before that it is answered like any other.
            try:
                await begun(channel, "Echo", b"x")
            except grpc.aio.AioRpcError as error:
                refused = error.code().name
        # grpcio cancels what reaches it in the moment of the shutdown.
        assert refused in (("UNAVAILABLE", "CANCELLED") if maker is GrpcioTransport else ("UNAVAILABLE",))
        assert not draining.done()
        bench.calls[0].answer(b"done")
        assert await held == b"done"
        await asyncio.wait_for(draining, 30)


async def test_a_drain_without_grace_cancels_what_is_in_flight(maker: Maker, bench: Bench) -> None:
    async with serving(maker, bench) as (transport, channel):
        held = begun(channel, "Hold")
        await asyncio.wait_for(bench.arrived.wait(), 30)
        await asyncio.wait_for(transport.drain(0), 30)
        assert (await refusal(held))[0] in ("UNAVAILABLE", "CANCELLED")
        assert [method for method, _ in await told(bench)] == ["test.Echo/Hold"]


async def test_a_transport_that_never_started_can_be_drained(maker: Maker, bench: Bench) -> None:
    transport = maker(bench.methods(), bench.observe, bench.after_pass, "127.0.0.1:0", LIMIT)
    await asyncio.wait_for(transport.drain(0), 30)


async def test_an_address_that_is_taken_is_refused(maker: Maker, bench: Bench) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        transport = maker(bench.methods(), bench.observe, bench.after_pass, address, LIMIT)
        with pytest.raises(GnomonError, match="cannot listen on"):
            await transport.start()
        await transport.drain(0)


async def test_two_transports_share_an_address(maker: Maker, bench: Bench) -> None:
    first = maker(bench.methods(), bench.observe, bench.after_pass, "127.0.0.1:0", LIMIT)
    port = await first.start()
    second = maker(bench.methods(), bench.observe, bench.after_pass, f"127.0.0.1:{port}", LIMIT)
    assert await second.start() == port
    await first.drain(0)
    await second.drain(0)


async def test_a_call_still_tells_whose_it_was_after_its_end(maker: Maker, bench: Bench) -> None:
    async with serving(maker, bench) as (_, channel):
        stream: Any = channel.stream_stream("/test.Echo/Stream")
        talk = stream(iter((b"one",)), metadata=(("key", "value"),))
        assert [message async for message in talk] == [b"one"]
        await asyncio.wait_for(bench.ended.wait(), 30)
    (call,) = bench.calls
    assert call.peer().startswith("ipv4:127.0.0.1:")
    assert call.metadata("key") == "value"
