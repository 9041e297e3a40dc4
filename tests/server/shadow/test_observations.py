"""Observations: first-seen rows, means of blocks, and what is missing at its worst and at its best."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.shadow.fakes import POISON, Adder, added, on_the_wire, record_of

from gnomon_protos.tensors import Array
from gnomon_server.settings import MirrorSettings
from gnomon_server.shadow import digests
from gnomon_server.shadow.digests import BUCKETS, WAYS, Seen, of_rows
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.statistics.knots import GEO32, SYM64
from gnomon_server.wire.plans import Observing
from gnomon_server.wire.record import Record
from gnomon_server.wire.tallies import MetricCounts, Observed

EACH = Observing(block=1)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def worked(
    records: Sequence[Record],
    executor: ThreadPoolExecutor,
    observing: Observing = EACH,
    shadow: Adder | None = None,
    mirror: MirrorSettings | None = None,
) -> Observed:
    """Returns what was observed in the life of a pipeline that took these records."""
    pipeline = Pipeline(shadow or Adder(), mirror or MirrorSettings(), "", executor, observing=observing)
    for one in records:
        pipeline.take(one, len(on_the_wire(one)))
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    (tally,) = pipeline.report("epoch").pairs
    return tally.observed


def metric(found: Observed, name: str = "disagreement") -> MetricCounts:
    return next(counts for counts in found.metrics if counts.name == name)


def values(counts: tuple[float, ...]) -> dict[float, float]:
    """Returns how often each knot was observed."""
    knots = SYM64 if len(counts) == len(SYM64) else GEO32
    return {round(point, 6): number for point, number in zip(knots.points, counts, strict=True) if number}


def distinct(count: int, wrong: int = 0, first: int = 0) -> list[Record]:
    """Requests of different rows, of which the last `wrong` ones disagree."""
    return [added([[i, 1]], wrong=float(i >= first + count - wrong)) for i in range(first, first + count)]


async def test_each_request_is_an_observation_where_blocks_have_one(executor: ThreadPoolExecutor) -> None:
    found = await worked(distinct(10, wrong=3), executor)
    assert values(metric(found).up) == values(metric(found).lo) == {0.0: 7, 1.0: 3}
    assert values(metric(found, "failure").up) == {0.0: 10}
    assert values(metric(found, "output sum").up) == {0.0: 7, 1.0: 3}
    assert (found.requests, found.repeated, found.rows, found.repeated_rows) == (10, 0, 10, 0)


async def test_an_input_that_is_sent_again_counts_once(executor: ThreadPoolExecutor) -> None:
    records = [*distinct(5, wrong=1), *distinct(5, wrong=1) * 9]
    found = await worked(records, executor)
    assert values(metric(found).up) == {0.0: 4, 1.0: 1}
    assert (found.requests, found.repeated, found.rows, found.repeated_rows) == (50, 45, 50, 45)
    each = await worked(records, executor, Observing(block=1, dedupe=False))
    assert values(metric(each).up) == {0.0: 40, 1.0: 10}
    assert each.repeated == 0


async def test_of_a_request_only_the_rows_that_are_new_count(executor: ThreadPoolExecutor) -> None:
    first = added([[1, 1], [2, 1]])
    # One row was met before, one comes twice, and the answers to all but the last are wrong.
    x = np.array([[1, 1], [3, 1], [3, 1], [4, 1]], np.float32)
    second = record_of({"x": x}, {"sum": np.array([9, 9, 9, 5], np.float32)})
    found = await worked([first, second, first], executor)
    half = GEO32.counts(np.array([0.0, 0.5]))
    assert metric(found).up == pytest.approx(half)
    assert (found.requests, found.repeated, found.rows, found.repeated_rows) == (3, 1, 8, 4)


async def test_an_observation_is_the_mean_of_a_block_and_an_unfinished_one_counts_for_nothing(
    executor: ThreadPoolExecutor,
) -> None:
    pipeline = Pipeline(Adder(), MirrorSettings(), "", executor, observing=Observing(block=4))
    records = [*distinct(4), *distinct(4, wrong=1, first=4), *distinct(3, wrong=3, first=8)]
    for one in records:
        pipeline.take(one, len(on_the_wire(one)))
    running = asyncio.create_task(pipeline.run())
    while pipeline.report("epoch").queue_depth:
        await asyncio.sleep(0)
    (tally,) = pipeline.report("epoch").pairs
    assert metric(tally.observed).up == pytest.approx(GEO32.counts(np.array([0.0, 0.25])))
    assert (tally.compared, tally.observed.requests) == (11, 8)
    serial = tally.observed.serial
    assert (serial.blocks, serial.total, serial.squares, serial.pairs, serial.products) == (2, 0.25, 0.0625, 1, 0.0)
    await pipeline.finish(running, 60)
    (tally,) = pipeline.report("epoch").pairs
    # The end came whatever was in it, so that it may be left out.
    assert sum(metric(tally.observed).up) == 2
    assert tally.observed.requests == 11


async def test_no_block_has_requests_of_two_shares_of_the_traffic(executor: ThreadPoolExecutor) -> None:
    tenth = [msgspec.structs.replace(one, sample=0.1) for one in distinct(6, wrong=6, first=10)]
    whole = distinct(6)
    # They come by turns; a poisoned one of each share, and one that is late, are in their blocks too.
    poison = [added([[POISON, 1]]), msgspec.structs.replace(added([[POISON, 2]]), sample=0.1)]
    late = msgspec.structs.replace(added(age=60.0), sample=0.1)
    records = [*whole[:3], *tenth[:3], *whole[3:], *tenth[3:], *poison, late]
    found = await worked(records, executor, Observing(block=4))
    # Four of six that agree; then two of them, and the poisoned one, are too few. Of the tenth two blocks are full.
    assert values(metric(found).up) == {0.0: 1, 1.0: 2}
    assert metric(found).lo == pytest.approx(GEO32.counts(np.array([0.0, 1.0, 0.75])))
    assert (found.serial.blocks, found.serial.pairs, found.requests) == (3, 1, 15)


async def test_what_the_shadow_fails_on_disagrees_and_again_only_once(executor: ThreadPoolExecutor) -> None:
    poison = added([[POISON, 1]])
    found = await worked([*distinct(3), poison, poison, poison], executor)
    for name in ("disagreement", "failure", "output sum"):
        assert values(metric(found, name).up) == values(metric(found, name).lo) == {0.0: 3, 1.0: 1}
    assert (found.requests, found.repeated) == (6, 2)


async def test_a_request_that_the_shadow_cannot_take_is_its_fault(executor: ThreadPoolExecutor) -> None:
    stranger = record_of({"z": np.ones((1, 2), np.float32)}, {"sum": np.ones(1, np.float32)})
    found = await worked([*distinct(3), stranger, stranger], executor)
    assert values(metric(found).lo) == {0.0: 3, 1.0: 1}
    assert values(metric(found, "failure").lo) == {0.0: 3, 1.0: 1}


async def test_what_nobody_knows_counts_at_its_worst_and_at_its_best(executor: ThreadPoolExecutor) -> None:
    size = len(on_the_wire(added()))
    small = MirrorSettings(queue_bytes=3 * (size + 512))
    found = await worked(distinct(5), executor, mirror=small)
    late = await worked([*distinct(3), added(age=60.0), added(age=60.0)], executor)
    for one in (found, late):
        for name in ("disagreement", "failure", "output sum"):
            assert values(metric(one, name).up) == {0.0: 3, 1.0: 2}
            assert values(metric(one, name).lo) == {0.0: 5}
        assert (one.requests, one.repeated) == (5, 0)


async def test_slow_runs_are_counted_against_those_of_the_primary(executor: ThreadPoolExecutor) -> None:
    # The primary of the fakes runs for a millisecond.
    patient = await worked(distinct(4), executor, Observing(block=1, latency=60.0))
    assert values(metric(patient, "latency").up) == {0.5: 4}
    poison = await worked([added([[POISON, 1]])], executor, Observing(block=1, latency=60.0))
    assert values(metric(poison, "latency").lo) == {1.0: 1}
    primary = await worked([added(age=60.0)], executor, Observing(block=1, latency=0.0005))
    assert (values(metric(primary, "latency").up), values(metric(primary, "latency").lo)) == ({1.0: 1}, {0.0: 1})
    both = await worked([added([[POISON, 1]])], executor, Observing(block=1, latency=0.0005))
    assert values(metric(both, "latency").up) == {0.5: 1}


async def test_observations_of_other_comparators_or_blocks_are_on_another_basis(executor: ThreadPoolExecutor) -> None:
    bases = [
        (await worked(distinct(1), executor, observing)).basis
        for observing in (EACH, Observing(), Observing(dedupe=False), Observing(latency=1.0), EACH)
    ]
    assert len(set(bases)) == 4
    assert bases[0] == bases[-1]


ROWS = st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=3)


@given(st.lists(ROWS, max_size=12), st.integers(1, 4))
@settings(max_examples=60)
def test_only_first_rows_count_however_requests_are_cut(requests: list[list[int]], block: int) -> None:
    """The model in plain Python: a set, and one request after the other."""
    seen: set[int] = set()
    expected = []
    for rows in requests:
        new = [row for row in dict.fromkeys(rows) if row not in seen]
        seen.update(new)
        if new:
            expected.append(float(np.mean([row == 3 for row in new])))
    records = [
        record_of(
            {"x": np.array([[row, 1] for row in rows], np.float32)},
            {"sum": np.array([row + 1 + (row == 3) for row in rows], np.float32)},
        )
        for rows in requests
    ]
    if not records:
        return
    with ThreadPoolExecutor(1) as executor:
        found = asyncio.run(worked(records, executor, Observing(block=block)))
    blocks = np.array(expected[: len(expected) // block * block]).reshape(-1, block).mean(axis=1)
    assert metric(found).up == pytest.approx(GEO32.counts(blocks))


def digest(**inputs: Array) -> list[int]:
    return [int(value) for value in of_rows(inputs, rowwise=True)]


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]], np.float32),
        np.array([[0.0], [-0.0], [0.0]]),
        np.array([True, False, True]),
        np.array([7, 8, 7], np.int8),
        np.array([[[1], [2], [3]], [[3], [2], [1]], [[1], [2], [3]]], np.float16),
        np.array(["one", "other", "one"], object),
        np.array([["a", "b"], ["b", "a"], ["a", "b"]], object),
    ],
)
def test_equal_rows_have_equal_digests_and_others_have_not(array: Array) -> None:
    first, second, third = digest(x=array)
    assert first == third != second
    assert digest(x=array[1:]) == [second, third]


def test_a_digest_is_of_names_datatypes_and_shapes_too_and_of_all_inputs() -> None:
    ones = np.ones((1, 4), np.float32)
    others = [
        digest(y=ones),
        digest(x=ones.astype(np.float64)),
        digest(x=ones.reshape(1, 2, 2)),
        digest(x=ones, y=ones),
        digest(x=ones, y=2 * ones),
        digest(x=2 * ones, y=ones),
    ]
    assert len({*map(tuple, others), tuple(digest(x=ones))}) == 7
    assert digest(x=ones, y=2 * ones) == digest(y=2 * ones, x=ones)
    assert digest(x=np.ones((0, 4))) == []
    (whole,) = of_rows({"x": np.ones((3, 4))}, rowwise=False)
    assert whole != of_rows({"x": np.ones((2, 4))}, rowwise=False)[0]


@given(st.lists(st.integers(1, 40), max_size=200), st.integers(1, 50))
def test_first_is_said_of_each_digest_once(found: list[int], batch: int) -> None:
    seen, known = Seen(), set[int]()
    for start in range(0, len(found), batch):
        part = found[start : start + batch]
        expected = [digest not in known and not known.add(digest) for digest in part]  # type: ignore[func-returns-value]
        assert seen.first(np.array(part, np.uint64)).tolist() == expected


def test_of_a_full_bucket_the_oldest_is_forgotten() -> None:
    seen = Seen()
    crowd = np.arange(1, WAYS + 3, dtype=np.uint64) * np.uint64(BUCKETS)
    assert seen.first(crowd).all()
    assert seen.first(crowd[2:]).tolist() == [False] * WAYS
    assert seen.first(crowd[:1]).tolist() == [True]


def test_no_digest_is_the_mark_of_an_empty_place() -> None:
    assert digests._mixed(np.array([0], np.uint64))[0] != 0
    assert digests.of_bytes((b"",)) > 0


SEGMENT = "x[0] < 4"


async def test_a_segment_counts_the_rows_in_it_and_what_is_unknown_at_its_worst(executor: ThreadPoolExecutor) -> None:
    observing = Observing(block=1, segments=(SEGMENT,))
    right = [added([[i, 1]]) for i in range(6)]
    # Of one request two rows lie in it, and one of them disagrees.
    mixed = added([[-1, 1], [-2, 1], [50, 1]])
    poison = [added([[POISON, 2]]), added([[2, POISON]])]
    late = added([[70, 1]], age=60.0)
    found = await worked([*right, mixed, *poison, late], executor, observing)
    counts = metric(found, f"segment {SEGMENT}")
    # Four agree, and so does the request of three rows; one failed in it; one nobody knows of.
    assert values(counts.up) == {0.0: 5, 1.0: 2}
    assert values(counts.lo) == {0.0: 6, 1.0: 1}
    assert sum(metric(found).up) == 10


async def test_a_segment_that_is_declared_later_leaves_the_other_counts_their_basis(
    executor: ThreadPoolExecutor,
) -> None:
    without = await worked(distinct(2), executor, EACH)
    found = await worked(distinct(2), executor, Observing(block=1, segments=(SEGMENT,)))
    assert found.basis == without.basis
    assert {m.name for m in found.metrics} - {m.name for m in without.metrics} == {f"segment {SEGMENT}"}
