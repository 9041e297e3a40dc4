"""The mirror feed: bounded, never waiting, and exact in what it says of itself."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.serving.fakes import Reader, mirrored, shadow

from gnomon_server.serving.feed import FLUSH_BYTES, Feed
from gnomon_server.shadow.intake import Intake
from gnomon_server.wire import record
from gnomon_server.wire.counts import FeedCount

LIMIT = 1 << 20
# More than kernels keep for a Unix socket that nobody reads.
KERNEL = 4 << 20


@pytest.fixture
def address() -> Iterator[str]:
    # The path of a Unix socket has room for about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        yield f"{folder}/feed.sock"


def offered(feed: Feed, request: bytes, primary: int = 1) -> None:
    feed.offer(primary, [record.encode(mirrored(request, primary))])


def only(feed: Feed) -> FeedCount:
    (count,) = feed.counts()
    return count


async def test_records_arrive_whole_and_in_order(address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        requests = [b"", b"small", b"x" * 100_000, b"y" * (FLUSH_BYTES + 1), b"last"]
        for request in requests:
            offered(feed, request)
        received = await worker.records(len(requests))
        assert received == [mirrored(request) for request in requests]
        assert only(feed) == FeedCount("line", 1, 2, "epoch", worker.source or "", 5, dropped=0, primary_error=0)
        feed.close()


async def test_a_record_counts_to_the_share_that_held_when_it_was_offered_however_full_the_feed(address: str) -> None:
    async with Reader(address) as worker:
        room = 2 * len(b"".join(record.encode(mirrored(b"x")))) + record.MARK.size
        feed = Feed(shadow(address, sample=0.5), room)
        await feed.connect()
        offered(feed, b"x")
        feed.aim(shadow(address, sample=0.25))
        offered(feed, b"x")
        # Full: it is dropped, and still the share of what comes later is known.
        offered(feed, b"x")
        feed.aim(shadow(address, sample=0.5))
        feed.flush()
        offered(feed, b"y")
        assert [(one.request, one.sample) for one in await worker.records(3)] == [
            (b"x", 0.5),
            (b"x", 0.25),
            (b"y", 0.5),
        ]
        assert (only(feed).selected, only(feed).dropped) == (4, 1)
        feed.close()


async def test_a_feed_says_first_who_it_is_and_no_two_are_the_same(address: str) -> None:
    async with Reader(address) as worker:
        feeds = [Feed(shadow(address), LIMIT) for _ in range(2)]
        for feed in feeds:
            await feed.connect()
            offered(feed, b"x")
            assert len(await worker.records(1)) == 1
            assert re.fullmatch("[0-9a-f]{16}", worker.source or "")
            assert only(feed).source == worker.source
            feed.close()
        assert only(feeds[0]).source != only(feeds[1]).source


async def test_a_feed_that_is_closed_with_unsent_records_neither_drops_them_nor_takes_them_back(address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        for _ in range(3):
            offered(feed, b"x")
        feed.close()
        # Only the worker knows what it received, so that it is for control to say what was lost.
        assert await worker.records() == []
        assert (only(feed).selected, only(feed).dropped) == (3, 0)


async def test_for_a_worker_that_does_not_read_memory_is_bounded_and_every_drop_is_counted(address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        request = b"x" * 10_000
        count = (LIMIT + KERNEL) // len(request) + 1
        for _ in range(count):
            offered(feed, request)
            # Let the loop write what it can.
            await asyncio.sleep(0)
        found = only(feed)
        assert found.selected == count
        assert 0 < found.dropped < count
        reading = asyncio.create_task(worker.records())
        await feed.drain(30)
        # Whatever was not dropped was kept, and arrives once somebody reads.
        received = await reading
        assert len(received) == count - found.dropped
        assert only(feed) == found


async def test_a_record_greater_than_the_feed_is_dropped_and_the_next_one_passes(address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        offered(feed, b"x" * LIMIT)
        offered(feed, b"small")
        assert await worker.records(1) == [mirrored(b"small")]
        assert (only(feed).selected, only(feed).dropped) == (2, 1)
        feed.close()


async def test_once_a_worker_has_gone_everything_is_dropped_and_nobody_is_hurt(address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        await worker.leave()
        count = 0
        while not feed.counts() or not only(feed).dropped:
            offered(feed, b"x")
            feed.flush()
            count += 1
            await asyncio.sleep(0)
            assert count < 10_000
        before = only(feed)
        for _ in range(10):
            offered(feed, b"x")
        assert only(feed).selected == count + 10
        assert only(feed).dropped == before.dropped + 10
        await feed.drain(30)


async def test_a_worker_that_cannot_be_reached_costs_counts_only(address: str) -> None:
    feed = Feed(shadow(address), LIMIT)
    await feed.connect()
    for _ in range(3):
        offered(feed, b"x")
    assert (only(feed).selected, only(feed).dropped) == (3, 3)
    await feed.drain(30)


async def test_counts_are_kept_for_each_primary_and_include_its_failures(address: str) -> None:
    async with Reader(address):
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        offered(feed, b"x", primary=1)
        feed.primary_failed(1, 1)
        feed.primary_failed(3, 1)
        counts = {count.primary: (count.selected, count.dropped, count.primary_error) for count in feed.counts()}
        assert counts == {1: (2, 0, 1), 3: (1, 0, 1)}
        feed.close()


async def test_a_drain_gives_up_on_a_worker_that_never_reads(address: str) -> None:
    async with Reader(address):
        feed = Feed(shadow(address), 2 * KERNEL)
        await feed.connect()
        for _ in range(16):
            offered(feed, b"x" * (KERNEL // 8))
        await asyncio.wait_for(feed.drain(0.02), 30)
        assert only(feed).selected == 16


async def test_few_records_leave_without_a_push(address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), LIMIT)
        await feed.connect()
        offered(feed, b"one")
        assert await worker.records(1) == [mirrored(b"one")]
        offered(feed, b"two")
        feed.close()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 2), st.booleans()), max_size=60))
def test_what_arrives_is_what_was_selected_and_not_dropped(offers: list[tuple[int, int, bool]]) -> None:
    """Each offer has a size and a primary, and may be followed by a turn of the loop."""

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
            async with Reader(f"{folder}/feed.sock") as worker:
                feed = Feed(shadow(worker.address), 10_000)
                await feed.connect()
                reading = asyncio.create_task(worker.records())
                for size, primary, turn in offers:
                    offered(feed, b"x" * size, primary)
                    if turn:
                        feed.flush()
                        await asyncio.sleep(0)
                await feed.drain(30)
                received = Counter(found.primary for found in await reading)
        counts = {count.primary: count for count in feed.counts()}
        assert {primary: count.selected for primary, count in counts.items()} == Counter(o[1] for o in offers)
        assert {primary: received[primary] + count.dropped for primary, count in counts.items()} == {
            primary: count.selected for primary, count in counts.items()
        }

    asyncio.run(run())


async def test_the_worker_is_told_how_many_requests_do_not_come(address: str) -> None:
    told: list[record.Loss] = []
    taken: list[bytes] = []
    intake = Intake(lambda one, _: taken.append(one.request), address, told.append)
    await intake.open()
    feed = Feed(shadow(address), 2 * len(b"".join(record.encode(mirrored(b"x")))))
    await feed.connect()
    for _ in range(3):
        offered(feed, b"x")
    feed.primary_failed(1, 2)
    feed.leave_out(3, 4)
    feed.flush()
    # Nothing new: nothing is told.
    feed.flush()
    feed.primary_failed(1, 5)
    feed.flush()
    async with asyncio.timeout(30):
        while sum(one.primary_errors for one in told) < 7:
            await asyncio.sleep(0.001)
    feed.close()
    await intake.drain(10)
    assert taken == [b"x", b"x"]
    for primary, dropped, failed in ((1, 1, 7), (3, 4, 0)):
        mine = [one for one in told if one.primary == primary]
        assert sum(one.dropped for one in mine) == dropped
        assert sum(one.primary_errors for one in mine) == failed
    assert len(told) == 3
