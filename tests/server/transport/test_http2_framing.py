"""Length-prefixed messages, header forms and deadlines, each by itself."""

from __future__ import annotations

import asyncio
import base64
import gzip
import random
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.transport.peer import framed

from gnomon_server.errors import GnomonError
from gnomon_server.serving.transport import MOST_TEXT, status_text
from gnomon_server.serving.transport.http2.deadlines import Deadlines
from gnomon_server.serving.transport.http2.framing import Assembler
from gnomon_server.serving.transport.http2.head import read
from gnomon_server.serving.transport.http2.metadata import (
    incoming_binary,
    incoming_text,
    outgoing,
    percent_encoded,
    timeout_seconds,
)

MESSAGES = st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=8)


@given(messages=MESSAGES, sizes=st.lists(st.integers(1, 50), min_size=1))
def test_messages_come_out_as_they_went_in_wherever_they_are_cut(
    messages: list[tuple[bytes, bool]], sizes: list[int]
) -> None:
    wire = b"".join(framed(gzip.compress(each), 1) if packed else framed(each) for each, packed in messages)
    assembler, found, place = Assembler(b"gzip", 300), list[bytes](), 0
    while place < len(wire):
        for size in sizes:
            found += assembler.feed(wire[place : place + size])
            place += size
    assert found == [message for message, _ in messages]
    assert assembler.held == 0


@given(noise=st.binary(max_size=200), encoding=st.sampled_from([b"", b"identity", b"gzip", b"deflate"]))
def test_any_bytes_are_messages_or_a_status(noise: bytes, encoding: bytes) -> None:
    messages, status = list[bytes](), "OK"
    try:
        messages = Assembler(encoding, 100).feed(noise)
    except GnomonError as error:
        status = error.status
    assert all(len(message) <= 100 for message in messages)
    assert status in ("OK", "INTERNAL", "RESOURCE_EXHAUSTED")


@given(text=st.one_of(st.text(), st.text("a %")))
def test_a_text_is_read_back_as_it_was_and_travels_in_printable_ascii(text: str) -> None:
    sent = percent_encoded(text)
    assert all(0x20 <= byte < 0x7F for byte in sent)
    assert sent == sent.strip(), "a field that no HTTP/2 peer may accept"
    assert unquote(sent.decode()) == text


@given(text=st.text(st.characters(), max_size=2000))
def test_a_text_is_cut_between_characters(text: str) -> None:
    cut = status_text(text)
    assert len(cut.encode()) <= MOST_TEXT
    assert text.encode("utf-8", "replace").decode().startswith(cut)
    assert len(cut.encode()) > MOST_TEXT - 4 or cut == text.encode("utf-8", "replace").decode()


@given(value=st.binary(), padded=st.booleans())
def test_binary_metadata_is_read_with_and_without_padding(value: bytes, padded: bool) -> None:
    wire = base64.b64encode(value) if padded else base64.b64encode(value).rstrip(b"=")
    assert incoming_binary({b"x-bin": wire}, "x-bin") == value
    assert outgoing([("x-bin", value)]) == [(b"x-bin", base64.b64encode(value).rstrip(b"="))]


@given(key=st.text(max_size=20), value=st.one_of(st.text(max_size=20), st.text(" a"), st.binary(max_size=20)))
def test_metadata_never_leaves_in_a_form_that_http_forbids(key: str, value: str | bytes) -> None:
    for name, sent in outgoing([(key, value)]):
        assert name
        assert all(byte in b"0123456789abcdefghijklmnopqrstuvwxyz_-." for byte in name)
        assert all(0x20 <= byte < 0x7F for byte in sent)
        assert sent == sent.strip()


def test_joined_and_broken_metadata_is_read_with_care() -> None:
    request = ((b":method", b"POST"), (b"a-bin", b"AA,AQ"), (b"b-bin", b"!"), (b"c", b"\xff"), (b"c", b"second"))
    fields = read(request, 1 << 10).fields
    assert incoming_binary(fields, "a-bin") == b"\0"
    assert incoming_binary(fields, "b-bin") is None
    assert incoming_binary(fields, "d-bin") is None
    assert incoming_text(fields, "c") == "\ufffd"
    assert incoming_text(fields, "d") is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999H", 99999999 * 3600.0),
        (b"00000001S", 1.0),
        (b"000000001S", None),
        (b"", None),
        (b"S", None),
        (b"1", None),
        (b"1 S", None),
        (b"1s", None),
        (b"+1S", None),
        (b"1S\n", None),
        (b"\xd9\xa1S", None),
    ],
)
def test_a_timeout_is_a_number_and_a_unit(value: bytes, seconds: float | None) -> None:
    assert timeout_seconds(value) == (None if seconds is None else pytest.approx(seconds))


class Item:
    """Something with a deadline."""


async def test_deadlines_strike_in_order_and_not_early() -> None:
    loop = asyncio.get_running_loop()
    struck: list[tuple[Item, float]] = []
    done = asyncio.Event()

    def due(item: Item) -> None:
        struck.append((item, loop.time()))
        if len(struck) == 3:
            done.set()

    deadlines = Deadlines(due)
    start = loop.time()
    items = {Item(): seconds for seconds in (0.09, 0.0, 0.05)}
    forgotten = Item()
    for item, seconds in items.items():
        deadlines.add(item, seconds)
    deadlines.remove(forgotten, deadlines.add(forgotten, 0.05))
    await asyncio.wait_for(done.wait(), 30)
    assert [item for item, _ in struck] == sorted(items, key=lambda item: items[item])
    for item, when in struck:
        assert when - start >= items[item]
    deadlines.close()


async def test_deadlines_of_any_distance_cost_a_bounded_number_of_ticks() -> None:
    deadlines: Deadlines[Item] = Deadlines(lambda _: None)
    chance = random.Random(1)
    for _ in range(50_000):
        # Up to 99999999H, the longest that grpc-timeout can say.
        item = Item()
        deadlines.remove(item, deadlines.add(item, 3600.0 * 10 ** (8 * chance.random())))
    assert len(deadlines._ticks) < 10_000
    deadlines.close()


async def test_far_deadlines_cost_no_memory_once_they_are_forgotten() -> None:
    deadlines: Deadlines[Item] = Deadlines(lambda _: None)
    for number in range(100_000):
        item = Item()
        deadlines.remove(item, deadlines.add(item, 3600.0 + number * 0.01))
    assert len(deadlines._ticks) < 1000
    assert not any(deadlines._ticks.values())
    deadlines.close()


@given(seconds=st.floats(0, 1e12))
@settings(max_examples=50)
def test_a_deadline_is_at_most_a_little_late(seconds: float) -> None:
    async def late() -> float:
        deadlines: Deadlines[Item] = Deadlines(lambda _: None)
        before = asyncio.get_running_loop().time()
        tick = deadlines.add(Item(), seconds)
        deadlines.close()
        return tick * 0.01 - before - seconds

    assert -1e-3 <= asyncio.run(late()) <= 0.02 + 0.02 * seconds
