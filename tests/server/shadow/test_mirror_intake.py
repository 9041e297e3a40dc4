from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.shadow.fakes import added, on_the_wire

from gnomon_server.shadow.backlog import OVERHEAD, Backlog
from gnomon_server.shadow.intake import Arrivals, Cutter, Intake, Malformed
from gnomon_server.wire import hello, record
from gnomon_server.wire.record import Record

RECORDS = [added([[i, i]] * (i % 4)) for i in range(6)]
RECEIVED = {1: len(RECORDS)}
SOURCE, OTHER = "0123456789abcdef", "fedcba9876543210"
HELLO = hello.encode(SOURCE)
STREAM = HELLO + b"".join(map(on_the_wire, RECORDS))


async def arrived(intake: Intake, source: str) -> Arrivals:
    """Returns the last counts of a source, once it has ended."""
    while True:
        for found in intake.arrivals():
            if found.source == source and found.ended:
                return found
        await asyncio.sleep(0)


@pytest.fixture
def address() -> Iterator[str]:
    # The path of a Unix socket has room for about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        yield f"{folder}/mirror.sock"


class Sink:
    """Keeps what it is given, and says when there are enough."""

    def __init__(self, expected: int) -> None:
        self.records: list[Record] = []
        self.enough = asyncio.Event()
        self._expected = expected

    def __call__(self, received: Record, size: int) -> None:
        assert size == len(on_the_wire(received))
        self.records.append(received)
        if len(self.records) == self._expected:
            self.enough.set()


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_records_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    cutter = Cutter()
    edges = [0, *sorted(cuts), len(STREAM)]
    received = [one for a, b in pairwise(edges) for one, _ in cutter.feed(STREAM[a:b])]
    assert received == RECORDS
    assert cutter.source == SOURCE


@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from(RECORDS)), max_size=20), st.integers(1, 300))
def test_a_record_has_the_share_that_was_marked_last_before_it(stream: list[float | Record], chunk: int) -> None:
    sent, share = HELLO, 1.0
    expected = []
    for one in stream:
        if isinstance(one, Record):
            sent += on_the_wire(one)
            expected.append((one.request, share))
        else:
            sent += record.mark(one)
            share = one
    cutter = Cutter()
    received = [one for at in range(0, len(sent), chunk) for one, _ in cutter.feed(sent[at : at + chunk])]
    assert [(one.request, one.sample) for one in received] == expected


def test_a_record_is_not_joined_before_it_is_whole() -> None:
    large = on_the_wire(added([[1, 2]] * 100_000))
    cutter = Cutter()
    assert list(cutter.feed(HELLO)) == []
    chunks = [large[i : i + 1000] for i in range(0, len(large), 1000)]
    assert [one for chunk in chunks[:-1] for one in cutter.feed(chunk)] == []
    # Each byte was joined once at most: all but the head still lies as it came.
    assert len(cutter._parts) == len(chunks) - 1
    assert [size for _, size in cutter.feed(chunks[-1])] == [len(large)]


@pytest.mark.parametrize("total", [0, record.HEAD.size - 1])
def test_a_stream_of_something_else_is_malformed(total: int) -> None:
    with pytest.raises(Malformed, match=f"received {total}"):
        list(Cutter().feed(HELLO + total.to_bytes(4, "little") + bytes(200)))


@pytest.mark.parametrize("start", [on_the_wire(RECORDS[0]), bytes(200), HELLO[:4] + bytes(200)])
def test_a_stream_without_a_hello_is_malformed(start: bytes) -> None:
    cutter = Cutter()
    assert list(cutter.feed(start[: hello.SIZE - 1])) == []
    with pytest.raises(Malformed, match="expected a hello, received b"):
        list(cutter.feed(start[hello.SIZE - 1 :]))
    assert cutter.source == ""


async def test_a_frontend_that_dies_within_a_record_loses_only_that_one(address: str) -> None:
    sink = Sink(len(RECORDS) + 1)
    intake = Intake(sink, address)
    await intake.open()
    _, dying = await asyncio.open_unix_connection(address)
    dying.write(STREAM + on_the_wire(RECORDS[3])[:-1])
    await dying.drain()
    dying.transport.abort()
    _, other = await asyncio.open_unix_connection(address)
    other.write(hello.encode(OTHER) + on_the_wire(RECORDS[0]))
    await sink.enough.wait()
    assert sorted(one.end_ns for one in sink.records) == sorted(one.end_ns for one in [*RECORDS, RECORDS[0]])
    other.close()
    await intake.drain(10)


@pytest.mark.parametrize("start", [bytes(200), hello.encode(OTHER) + bytes(200)])
async def test_a_malformed_stream_is_closed_and_the_others_go_on(address: str, start: bytes) -> None:
    sink = Sink(1)
    intake = Intake(sink, address)
    await intake.open()
    reader, wrong = await asyncio.open_unix_connection(address)
    wrong.write(start)
    assert await reader.read() == b""
    _, right = await asyncio.open_unix_connection(address)
    right.write(HELLO + on_the_wire(RECORDS[0]))
    await sink.enough.wait()
    for writer in (wrong, right):
        writer.close()
    await intake.drain(10)


async def test_what_was_received_of_a_dead_frontend_is_final_once_it_was_read_to_its_end_and_said_once(
    address: str,
) -> None:
    sink = Sink(len(RECORDS))
    intake = Intake(sink, address)
    await intake.open()
    _, silent = await asyncio.open_unix_connection(address)
    _, dying = await asyncio.open_unix_connection(address)
    dying.write(STREAM + on_the_wire(RECORDS[3])[:-1])
    dying.close()
    # Nothing is said of its end before all that it wrote has been counted.
    assert await arrived(intake, SOURCE) == Arrivals(SOURCE, RECEIVED, ended=True)
    assert len(sink.records) == len(RECORDS)
    assert intake.arrivals() == []
    silent.close()
    await intake.drain(10)


async def test_a_living_source_is_counted_by_primary_again_and_again(address: str) -> None:
    records = [added(primary=primary) for primary in (1, 3, 3)]
    sink = Sink(len(records))
    intake = Intake(sink, address)
    await intake.open()
    _, writer = await asyncio.open_unix_connection(address)
    writer.write(HELLO + b"".join(map(on_the_wire, records)))
    await sink.enough.wait()
    for _ in range(2):
        assert intake.arrivals() == [Arrivals(SOURCE, {1: 1, 3: 2}, ended=False)]
    writer.close()
    assert await arrived(intake, SOURCE) == Arrivals(SOURCE, {1: 1, 3: 2}, ended=True)
    await intake.drain(10)


async def test_a_source_that_sent_nothing_but_its_hello_ends_too(address: str) -> None:
    intake = Intake(Sink(1), address)
    await intake.open()
    _, writer = await asyncio.open_unix_connection(address)
    writer.write(HELLO)
    writer.close()
    assert await arrived(intake, SOURCE) == Arrivals(SOURCE, {}, ended=True)
    await intake.drain(10)


async def test_draining_reads_what_was_written_and_then_closes(address: str) -> None:
    sink = Sink(2 * len(RECORDS))
    intake = Intake(sink, address)
    await intake.open()
    streams = [await asyncio.open_unix_connection(address) for _ in range(2)]
    for _, writer in streams:
        writer.write(STREAM)
    # Nothing was read yet: this task has not given way since the bytes went into the sockets.
    assert sink.records == []
    await intake.drain(10)
    assert len(sink.records) == 2 * len(RECORDS)
    assert not Path(address).exists()
    for reader, writer in streams:
        assert await reader.read() == b""
        writer.close()


async def test_a_socket_left_by_a_dead_worker_is_replaced(address: str) -> None:
    dead, alive = Intake(Sink(1), address), Intake(Sink(1), address)
    await dead.open()
    await alive.open()
    _, writer = await asyncio.open_unix_connection(address)
    writer.close()
    await alive.drain(10)
    await dead.drain(10)


async def test_the_backlog_refuses_what_has_no_room_and_never_waits() -> None:
    backlog = Backlog(limit=2 * (100 + OVERHEAD), full_batch=8)
    taken = [backlog.offer(one, 100) for one in RECORDS[:4]]
    assert taken == [True, True, False, False]
    assert backlog.take(1) == RECORDS[:1]
    assert backlog.offer(RECORDS[4], 100)
    assert backlog.take(9) == [RECORDS[1], RECORDS[4]]
    assert len(backlog) == 0


async def test_a_full_batch_is_ready_at_once_and_a_smaller_one_after_gathering() -> None:
    backlog = Backlog(limit=1 << 20, full_batch=2)
    backlog.offer(RECORDS[0], 100)
    assert await backlog.ready(gather=0.001)
    waiting = asyncio.create_task(backlog.ready(gather=1e9))
    await asyncio.sleep(0)
    backlog.offer(RECORDS[1], 100)
    assert await waiting


async def test_a_closed_backlog_is_ready_until_it_is_empty() -> None:
    backlog = Backlog(limit=1 << 20, full_batch=8)
    backlog.offer(RECORDS[0], 100)
    backlog.close()
    assert not backlog.offer(RECORDS[1], 100)
    assert await backlog.ready(gather=1e9)
    backlog.take(8)
    assert not await backlog.ready(gather=1e9)


async def test_records_past_their_time_leave_from_the_front() -> None:
    backlog = Backlog(limit=1 << 20, full_batch=8)
    old, new = added(age=20), added()
    for one in (old, new):
        backlog.offer(one, 100)
    assert backlog.expire(new.end_ns - 1) == [old]
    assert backlog.take(8) == [new]
