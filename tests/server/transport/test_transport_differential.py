"""The same calls to both transports: a client sees no difference."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.transport.rooms import LIMIT, MAKERS, SPECIAL, House, Maker, channel, serving, status, stream, unary

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Wish:
    """A call to make."""

    method: str
    messages: tuple[bytes, ...]
    metadata: Metadata = ()
    compression: grpc.Compression = grpc.Compression.NoCompression
    timeout: float = 60.0

    @property
    def ends_early(self) -> bool:
        """Whether the server ends the stream; what a client sends after that is up to its luck."""
        return self.method == "UnknownStream" or (self.method == "FailLate" and b"fail" in self.messages)


@dataclass(frozen=True)
class Seen:
    """What a client sees of a call."""

    messages: tuple[bytes, ...]
    status: str
    text: str
    initial: Metadata
    trailing: Metadata
    observed: tuple[tuple[str, str], ...]


async def seen(maker: Maker, wishes: Sequence[Wish]) -> list[Seen]:
    house = House()
    async with serving(maker, house) as target, channel(target) as wire:
        return [await one(wire, house, wish) for wish in wishes]


async def one(wire: grpc.aio.Channel, house: House, wish: Wish) -> Seen:
    house.observed.clear()
    call: Any = (
        unary(wire, wish.method, wish.messages[0], **how(wish))
        if wish.method in UNARY
        else stream(wire, wish.method, **how(wish))
    )
    messages: list[bytes] = []
    try:
        if wish.method in UNARY:
            messages.append(await call)
        else:
            for message in wish.messages:
                await call.write(message)
            if not wish.ends_early:
                await call.done_writing()
            messages += [message async for message in call]
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    name, text = await status(call)
    return Seen(
        tuple(messages),
        name,
        text,
        shown(await call.initial_metadata()),
        shown(await call.trailing_metadata()),
        tuple(house.observed),
    )


def how(wish: Wish) -> dict[str, Any]:
    return {"metadata": wish.metadata, "compression": wish.compression, "timeout": wish.timeout}


def shown(metadata: Any) -> Metadata:
    # Which encodings a server takes is the one thing that stacks may tell differently.
    return tuple(sorted((key, value) for key, value in metadata or () if key != "grpc-accept-encoding"))


UNARY = ("Echo", "Empty", "Size", "Bytes", "Fail", "Unknown")
ECHO: Metadata = (
    ("x-grpc-test-echo-initial", "value with spaces"),
    ("x-grpc-test-echo-trailing-bin", bytes(range(256))),
)
WISHES = [
    *[Wish("Echo", (message,), ECHO) for message in (b"", b"x", b"y" * 20_000, b"z" * 3_000_000)],
    Wish("Bytes", (b"10000000",)),
    Wish("Size", (b"x" * 10_000_000,)),
    Wish("Size", (b"x" * LIMIT,)),
    *[Wish("Fail", (text.encode(),), ECHO) for text in ("", "plain", SPECIAL, "100 %", "x" * 5000, "é" * 5000)],
    Wish("Unknown", (b"x",)),
    Wish("UnknownStream", ()),
    # Without a message, grpcio's client may see the status before the initial metadata, and then forgets the latter.
    Wish("Echoes", ()),
    *[Wish("Echoes", messages, ECHO) for messages in ((b"",), (b"a", b"b" * 100_000, b""))],
    Wish("Sum", tuple(b"x" * size for size in (0, 1, 100_000))),
    Wish("Count", (b"1 2 3", b"100000 0")),
    Wish("FailLate", (b"a", b"fail"), ECHO),
    Wish("FailLate", (b"fail",)),
    Wish("FailLate", (b"a", b"b"), ECHO),
    Wish("Leave", (b"a",)),
    Wish("Leave", ()),
    *[Wish(method, (b"x" * 1000,), (), grpc.Compression.Gzip) for method in ("Echo", "Echoes")],
    *[Wish(method, (b"x" * 1000,), (), grpc.Compression.Deflate) for method in ("Echo", "Echoes")],
    Wish("Echo", (b"\0" * (LIMIT + 1),), (), grpc.Compression.Gzip),
]


def label(wish: Wish) -> str:
    size = sum(len(message) for message in wish.messages)
    return f"{wish.method}-{len(wish.messages)}-{size}-{wish.compression.name}-{len(wish.metadata)}"


@pytest.mark.parametrize("wish", WISHES, ids=label)
async def test_both_transports_look_the_same(wish: Wish) -> None:
    first, second = [(await seen(maker, [wish]))[0] for maker in MAKERS]
    if first.status == "RESOURCE_EXHAUSTED" and wish.method in UNARY:
        # grpcio refuses a message that is too large before anyone can count the call, and in words of its own.
        assert second.status == first.status
        return
    assert second == first


@pytest.mark.parametrize("message", [LIMIT, LIMIT + 1])
async def test_the_largest_message_is_the_same(message: int) -> None:
    statuses = {(await seen(maker, [Wish("Size", (b"x" * message,))]))[0].status for maker in MAKERS}
    assert statuses == {"OK" if message == LIMIT else "RESOURCE_EXHAUSTED"}


KEYS = st.text(st.sampled_from("abcxyz019_-."), min_size=1, max_size=8).filter(lambda key: not key.startswith("grpc"))
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
PAIRS = st.one_of(st.tuples(KEYS, VALUES), st.tuples(KEYS.map(lambda key: key + "-bin"), st.binary(max_size=20)))
TEXTS = st.text(max_size=50).map(str.encode)
METHODS = ("Echo", "Size", "Fail", "Echoes", "Sum", "FailLate", "Leave", "Unknown")
ENCODINGS = (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate)


@st.composite
def calls(draw: st.DrawFn) -> Wish:
    method = draw(st.sampled_from(METHODS))
    messages = draw(st.lists(TEXTS, min_size=1, max_size=1 if method == "Leave" else 4))
    if method == "FailLate" and draw(st.booleans()):
        messages.append(b"fail")
    metadata = draw(st.lists(PAIRS, max_size=4))
    return Wish(method, tuple(messages), tuple(metadata), draw(st.sampled_from(ENCODINGS)))


def test_any_calls_look_the_same() -> None:
    # One loop for all examples: grpcio's poller outlives the one that it was made for.
    with asyncio.Runner() as runner:

        @given(wishes=st.lists(calls(), min_size=1, max_size=10))
        @settings(max_examples=15)
        def check(wishes: list[Wish]) -> None:
            first, second = (runner.run(seen(maker, wishes)) for maker in MAKERS)
            assert second == first

        check()
