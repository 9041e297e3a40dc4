"""Sequences in the shadow worker: in order, and none of which the middle is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.shadow.fakes import ADDER, Adder, added, on_the_wire
from server.shadow.test_shadow_pipeline import outcomes, take

from gnomon_server.settings import MirrorSettings
from gnomon_server.shadow.batching import Mirrored, group, parse
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.shadow.sequences import Lost, followers
from gnomon_server.wire import record
from gnomon_server.wire.record import Record

FITS = Fits(ADDER, coalescable=True)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def at(sequence: bytes, starts: bool = False, ends: bool = False, **options: float | bool) -> Record:
    return msgspec.structs.replace(added(**options), sequence=sequence, starts=starts, ends=ends)  # type: ignore[arg-type]


def test_the_place_in_a_sequence_travels_with_a_record() -> None:
    for one in (at(b"#1", starts=True), at(b"$x", ends=True), at(b"", False), at(b"$" + b"s" * 128, True, ends=True)):
        assert record.decode(b"".join(record.encode(one))) == (one, len(on_the_wire(one)))


@given(st.lists(st.tuples(st.sampled_from([b"", b"#1", b"#2"]), st.booleans(), st.integers(1, 3)), max_size=30))
def test_no_request_of_a_sequence_runs_before_an_earlier_one(requests: list[tuple[bytes, bool, int]]) -> None:
    mirrored: list[Mirrored] = []
    for number, (sequence, typed, rows) in enumerate(requests):
        made = msgspec.structs.replace(added([[1, 2]] * rows, typed=typed), sequence=sequence, span_id=number)
        found = parse(made, FITS)
        assert found is not None
        mirrored.append(found)
    ran = [request.record for batch in group(mirrored, 4) for request in batch.requests]
    assert sorted(one.span_id for one in ran) == list(range(len(requests)))
    for sequence in (b"#1", b"#2"):
        order = [one.span_id for one in ran if one.sequence == sequence]
        assert order == sorted(order)


def test_what_follows_a_lost_request_is_lost_until_its_sequence_ends_or_begins() -> None:
    lost = Lost(clock=lambda: 0.0)
    lost.add([at(b"#1"), at(b""), at(b"#3", ends=True)])
    given_ = [at(b""), at(b"#2"), at(b"#3"), at(b"#1"), at(b"#1", ends=True), at(b"#1")]
    assert [lost.follows(one) for one in given_] == [False, False, False, True, True, False]
    lost.add([at(b"#1")])
    assert [lost.follows(one) for one in (at(b"#1", starts=True), at(b"#1"))] == [False, False]


def test_within_a_batch_only_later_requests_of_the_same_sequence_follow() -> None:
    records = [at(b"#1"), at(b""), at(b"#2"), at(b"#1"), at(b"#1", starts=True), at(b"#1")]
    late = np.array([True, True, False, False, False, False])
    assert followers(records, late).tolist() == [True, True, False, True, False, False]


async def test_a_sequence_that_finds_no_room_once_is_dropped_to_its_end(executor: ThreadPoolExecutor) -> None:
    size = len(on_the_wire(at(b"#1")))
    pipeline = Pipeline(Adder(), MirrorSettings(queue_bytes=2 * (size + 512)), "", executor)
    take(pipeline, [at(b"#1", starts=True), at(b"#2", starts=True), at(b"#1"), at(b"#3", starts=True)])
    running = asyncio.create_task(pipeline.run())
    while pipeline.report("epoch").queue_depth:
        await asyncio.sleep(0.001)
    # There is room again; what was refused in the middle stays away, and what ran before it did run.
    take(pipeline, [at(b"#1"), at(b"#2"), at(b"#3", ends=True)])
    await pipeline.finish(running, 60)
    (tally,) = pipeline.report("epoch").pairs
    assert outcomes(tally) == {"compared": 3, "dropped": 4}


async def test_a_sequence_that_was_too_late_once_is_dropped_to_its_end(executor: ThreadPoolExecutor) -> None:
    pipeline = Pipeline(Adder(), MirrorSettings(deadline=60.0), "", executor)
    take(pipeline, [at(b"#1", starts=True, age=100), at(b"#1"), at(b"#2", starts=True)])
    pipeline.report("epoch")
    take(pipeline, [at(b"#1"), at(b"#2", typed=True), at(b"#1", starts=True)])
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    (tally,) = pipeline.report("epoch").pairs
    assert outcomes(tally) == {"compared": 3, "timeout": 1, "dropped": 2}
