"""The cases of grpc's doc/interop-test-descriptions.md that concern a server, on every transport.

Left out are those of credentials of a cloud, of a proxy's cache, and of answers that the server compresses: these
servers never do. What that document wishes for without describing it comes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from server.transport.rooms import MAKERS, SPECIAL, House, Maker, channel, serving, status, stream, unary, until

from gnomon_server.serving.transport.grpcio import GrpcioTransport

REQUEST_SIZES = (27182, 8, 1828, 45904)
RESPONSE_SIZES = (31415, 9, 2653, 58979)
METADATA = (
    ("x-grpc-test-echo-initial", "test_initial_metadata_value"),
    ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"),
)


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Maker:
    made: Maker = request.param
    return made


@pytest.fixture
async def house() -> House:
    return House()


@pytest.fixture
async def wire(maker: Maker, house: House) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(maker, house) as target, channel(target) as opened:
        yield opened


async def test_empty_unary(wire: grpc.aio.Channel) -> None:
    assert await unary(wire, "Empty") == b""


async def test_large_unary(wire: grpc.aio.Channel) -> None:
    assert await unary(wire, "Size", b"\0" * 271828) == b"271828"
    assert len(await unary(wire, "Bytes", b"314159")) == 314159


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_client_compressed_unary(compression: grpc.Compression, wire: grpc.aio.Channel) -> None:
    assert await unary(wire, "Size", b"\0" * 271828, compression=compression) == b"271828"
    assert await unary(wire, "Size", b"\0" * 271828) == b"271828"


async def test_client_streaming(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Sum")
    for size in REQUEST_SIZES:
        await call.write(b"\0" * size)
    await call.done_writing()
    assert [message async for message in call] == [b"74922"]


async def test_client_compressed_streaming(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Sum", compression=grpc.Compression.Gzip)
    for size in (27182, 45904):
        await call.write(b"\0" * size)
    await call.done_writing()
    assert [message async for message in call] == [b"73086"]


async def test_server_streaming(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Count")
    await call.write(" ".join(str(size) for size in RESPONSE_SIZES).encode())
    await call.done_writing()
    assert [len(message) async for message in call] == list(RESPONSE_SIZES)


async def test_ping_pong(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Count")
    for size in RESPONSE_SIZES:
        await call.write(str(size).encode())
        assert len(await call.read()) == size
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await status(call) == ("OK", "")


async def test_empty_stream(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Echoes")
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await status(call) == ("OK", "")


async def test_cancel_after_begin(house: House, wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Slow")
    await asyncio.wait_for(house.arrived.wait(), 60)
    call.cancel()
    assert (await status(call))[0] == "CANCELLED"
    await until(lambda: bool(house.observed))
    assert house.observed == [("Slow", "CANCELLED")]


async def test_cancel_after_first_response(maker: Maker, house: House, wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Count")
    await call.write(b"31415")
    assert len(await call.read()) == 31415
    call.cancel()
    assert (await status(call))[0] == "CANCELLED"
    await until(lambda: bool(house.observed))
    # To a handler that waits for messages, grpcio may show the cancellation as the end of them.
    assert house.observed[0] in [("Count", "CANCELLED"), *([("Count", "OK")] if maker is GrpcioTransport else [])]


async def test_timeout_on_sleeping_server(house: House, wire: grpc.aio.Channel) -> None:
    # Once connected, so that the deadline is the server's as well.
    await unary(wire, "Empty")
    call = stream(wire, "Slow", timeout=0.1)
    await call.write(b"\0" * 27182)
    assert (await status(call))[0] == "DEADLINE_EXCEEDED"
    await until(lambda: len(house.observed) == 2)
    assert house.observed[1] == ("Slow", "DEADLINE_EXCEEDED")


async def test_custom_metadata(wire: grpc.aio.Channel) -> None:
    call = unary(wire, "Echo", b"x", metadata=METADATA)
    assert await call == b"x"
    assert METADATA[0] in tuple(await call.initial_metadata())
    assert METADATA[1] in tuple(await call.trailing_metadata())
    duplex = stream(wire, "Echoes", metadata=METADATA)
    await duplex.write(b"x")
    await duplex.done_writing()
    assert await duplex.read() == b"x"
    assert METADATA[0] in tuple(await duplex.initial_metadata())
    assert METADATA[1] in tuple(await duplex.trailing_metadata())


async def test_status_code_and_message(wire: grpc.aio.Channel) -> None:
    text = "test status message"
    assert await status(unary(wire, "Fail", text.encode())) == ("INVALID_ARGUMENT", text)
    call = stream(wire, "FailLate")
    await call.write(b"fail")
    await call.done_writing()
    assert await status(call) == ("RESOURCE_EXHAUSTED", "enough")


async def test_special_status_message(wire: grpc.aio.Channel) -> None:
    assert await status(unary(wire, "Fail", SPECIAL.encode())) == ("INVALID_ARGUMENT", SPECIAL)


async def test_unimplemented_method(wire: grpc.aio.Channel) -> None:
    assert (await status(unary(wire, "UnimplementedCall")))[0] == "UNIMPLEMENTED"


async def test_unimplemented_service(wire: grpc.aio.Channel) -> None:
    made: Any = wire.unary_unary("/test.Unimplemented/Call")
    assert (await status(made(b"", timeout=60)))[0] == "UNIMPLEMENTED"


async def test_concurrent_large_unary(wire: grpc.aio.Channel) -> None:
    sizes = await asyncio.gather(*[unary(wire, "Size", bytes(271828)) for _ in range(100)])
    assert sizes == [b"271828"] * 100


async def test_more_calls_at_a_time_than_one_connection_takes(wire: grpc.aio.Channel) -> None:
    numbers = [str(number).encode() for number in range(3000)]
    assert await asyncio.gather(*[unary(wire, "Echo", number) for number in numbers]) == numbers


async def test_a_thousand_deadlines_that_pass_at_a_time(wire: grpc.aio.Channel) -> None:
    calls = [unary(wire, "Hold", timeout=0.5) for _ in range(1000)]
    assert {(await status(call))[0] for call in calls} == {"DEADLINE_EXCEEDED"}
    assert await unary(wire, "Echo", b"x") == b"x"


async def test_cancel_before_start(wire: grpc.aio.Channel) -> None:
    call = unary(wire, "Hold")
    call.cancel()
    assert (await status(call))[0] == "CANCELLED"
    assert await unary(wire, "Echo", b"x") == b"x"


async def test_cancel_after_sent_first_message(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Sum")
    await call.write(b"x")
    call.cancel()
    assert (await status(call))[0] == "CANCELLED"
    assert await unary(wire, "Echo", b"x") == b"x"


async def test_timeout_but_completed_before_it(house: House, wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Echoes", timeout=1)
    await call.write(b"x")
    await call.done_writing()
    assert [message async for message in call] == [b"x"]
    # Of the deadline of a call that has ended, nobody hears any more.
    held = stream(wire, "Slow", timeout=2)
    assert (await status(held))[0] == "DEADLINE_EXCEEDED"
    await until(lambda: len(house.observed) == 2)
    assert [how for _, how in house.observed] == ["OK", "DEADLINE_EXCEEDED"]


async def test_the_server_speaks_first(wire: grpc.aio.Channel) -> None:
    call = stream(wire, "Greet")
    assert await call.read() == b"hello"
    await call.write(b"x")
    assert await call.read() == b"x"
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_63_kib_of_headers_are_refused_and_the_next_call_is_answered(wire: grpc.aio.Channel) -> None:
    name, _ = await status(unary(wire, "Echo", b"x", metadata=(("x-long", "X" * 63 * 1024),)))
    assert name == "RESOURCE_EXHAUSTED"
    assert await unary(wire, "Echo", b"x") == b"x"


async def test_a_client_that_sends_faster_than_the_server_takes_has_to_wait(
    house: House, wire: grpc.aio.Channel
) -> None:
    call = stream(wire, "Slow")
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            await call.write(bytes(100_000))
            sent += 1

    sending = asyncio.create_task(send())
    await asyncio.wait_for(house.arrived.wait(), 60)
    for _ in range(200):
        before = sent
        # Whoever can go on sending does so within this many other calls.
        await asyncio.gather(*[unary(wire, "Echo", b"x") for _ in range(20)])
        if sent == before:
            break
    assert sent == before < 500
    sending.cancel()
    call.cancel()
