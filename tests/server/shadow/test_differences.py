"""Requests that are kept because the shadow disagrees on them, and where they lie."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from server.shadow.fakes import ADDER, Adder, added, on_the_wire, record_of

from gnomon_protos import tensors
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import CompareSettings, MirrorSettings
from gnomon_server.shadow.batching import Batch, parse
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.comparing import Compared, Values
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.differences import PAUSE, Differences
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.shadow.reservoir import ROWS, TENSOR_BYTES
from gnomon_server.shadow.rows import CHARACTERS, COLUMNS, Rows
from gnomon_server.shadow.trial import Trial
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.record import Record
from gnomon_server.wire.tallies import KeptRequest, KeptTensor

OFF = CompareSettings(repeat=0, keep=0, segment_rows=0)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def spanned(record: Record, seed: int, primary: int = 1) -> Record:
    span = int(np.random.default_rng(seed).integers(1, 1 << 63))
    return msgspec.structs.replace(record, span_id=span, trace_id=seed.to_bytes(16, "big"), primary=primary)


async def worked(
    records: list[Record], looking: CompareSettings, executor: ThreadPoolExecutor, shadow: Adder | None = None
) -> WorkerReport:
    pipeline = Pipeline(shadow or Adder(), MirrorSettings(), "", executor, looking=looking)
    for record in records:
        pipeline.take(record, len(on_the_wire(record)))
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    return pipeline.report("epoch")


def values(kept: KeptTensor) -> list[object]:
    assert kept.raw is not None
    found: list[object] = tensors.from_raw(kept.datatype, kept.shape, kept.raw).tolist()
    return found


async def kept(records: list[Record], executor: ThreadPoolExecutor, **settings: object) -> tuple[KeptRequest, ...]:
    return (await worked(records, msgspec.structs.replace(OFF, **settings), executor)).kept


async def test_a_divergent_request_is_kept_with_what_both_answered(executor: ThreadPoolExecutor) -> None:
    records = [spanned(added([[i, 1]], wrong=i % 2), i) for i in range(10)]
    found = await kept(records, executor, keep=100)
    assert {request.trace_id[-1] for request in found} == {1, 3, 5, 7, 9}
    (one,) = [request for request in found if request.trace_id[-1] == 3]
    assert (one.primary, one.rows, one.divergences) == (1, 1, (("sum", 1.0),))
    assert one.time_ns == records[3].end_ns
    assert [(tensor.name, values(tensor)) for tensor in one.inputs] == [("x", [[3, 1]])]
    assert [(tensor.name, values(tensor)) for tensor in one.primary_outputs] == [("sum", [5])]
    assert [(tensor.name, values(tensor)) for tensor in one.shadow_outputs] == [("sum", [4])]


async def test_of_a_large_request_some_disagreeing_rows_are_kept(executor: ThreadPoolExecutor) -> None:
    good, bad = added([[0, 0]] * 5), added([[i, 0] for i in range(50)], wrong=1)
    (found,) = await kept([spanned(good, 1), spanned(bad, 2)], executor, keep=100)
    assert found.rows == 50
    assert values(found.inputs[0]) == [[i, 0] for i in range(ROWS)]
    assert values(found.shadow_outputs[0]) == list(range(ROWS))


async def test_what_is_redacted_is_withheld(executor: ThreadPoolExecutor) -> None:
    (found,) = await kept([spanned(added(wrong=1), 1)], executor, keep=1, redact=("x",))
    assert found.inputs == (KeptTensor("x", "FP32", (1, 2), None),)
    assert found.primary_outputs[0].raw is not None
    assert found.size == 8


async def test_what_is_large_is_withheld(executor: ThreadPoolExecutor) -> None:
    rows = TENSOR_BYTES // 8 + 1
    whole = Signature((TensorSpec("x", "FP32", (rows, 2)),), (TensorSpec("sum", "FP32", (rows,)),))
    record = spanned(added([[1, 2]] * rows, wrong=1), 1)
    settings = msgspec.structs.replace(OFF, keep=1)
    (found,) = (await worked([record], settings, executor, Adder(signature=whole))).kept
    assert found.inputs == (KeptTensor("x", "FP32", (rows, 2), None),)
    assert len(values(found.shadow_outputs[0])) == rows


async def test_nothing_is_kept_or_sought_if_so_configured(executor: ThreadPoolExecutor) -> None:
    report = await worked([spanned(added(wrong=1), i) for i in range(600)], OFF, executor)
    assert (report.kept, report.searches) == ((), ())


async def test_whatever_order_they_come_in_the_same_requests_are_kept_in_the_end(executor: ThreadPoolExecutor) -> None:
    records = [spanned(added(wrong=1), i) for i in range(400)]

    def last(found: tuple[KeptRequest, ...]) -> set[int]:
        return set(sorted(request.priority for request in found)[:10])

    forward, backward = await kept(records, executor, keep=10), await kept(records[::-1], executor, keep=10)
    assert len(last(forward)) == 10
    assert last(forward) == last(backward)
    # What is sent grows with the logarithm of what there is.
    assert len(forward) < 120


async def test_old_requests_make_room(executor: ThreadPoolExecutor) -> None:
    old = [spanned(added(wrong=1, age=600), i) for i in range(200)]
    young = [spanned(added(wrong=1), i) for i in range(200, 205)]
    pipeline = Pipeline(
        Adder(),
        MirrorSettings(deadline=3600),
        "",
        executor,
        looking=msgspec.structs.replace(OFF, keep=5, keep_seconds=60),
    )
    for record in (*old, *young):
        pipeline.take(record, 200)
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    found = pipeline.report("epoch").kept
    assert {request.trace_id for request in young_of(found)} == {record.trace_id for record in young}


def young_of(found: tuple[KeptRequest, ...]) -> list[KeptRequest]:
    newest = max(request.time_ns for request in found)
    return [request for request in found if request.time_ns > newest - 60e9]


async def test_a_segment_of_the_traffic_is_named(executor: ThreadPoolExecutor) -> None:
    generator = np.random.default_rng(0)
    records = []
    for i in range(600):
        x = generator.normal(size=(5, 2)).astype(np.float32)
        # Where the second column is large the primary answers otherwise than the shadow.
        records.append(spanned(record_of({"x": x}, {"sum": x.sum(axis=1) + (x[:, 1] > 1.3)}), i))
    report = await worked(records, msgspec.structs.replace(OFF, segment_rows=20_000), executor)
    (search,) = report.searches
    assert (search.primary, search.rows) == (1, 3000)
    assert search.disagreeing == pytest.approx(3000 * 0.0968, rel=0.3)
    found = search.found[0]
    assert found.conditions[0].startswith("x[1] >= 1.")
    assert found.disagreements > 0.9
    assert found.rate > 0.8
    assert found.rate_outside < 0.02
    assert len(found.trace_ids) == 3


def test_wide_inputs_and_long_texts_are_cut_and_redacted_ones_left_out() -> None:
    found = compared_batch(0, 10, 0.5)
    values = Values(
        {
            "secret": np.ones((10, 1)),
            "image": np.ones((10, 8, 8)),
            "text": np.array(["x" * 1000] * 10, object),
            "wide": np.ones((10, 200), np.float32),
            "late": np.ones((10, 1)),
        },
        {},
        {},
    )
    rows = Rows(100, ["secret"])
    rows.settle(replace(found, values=values))
    sample = rows.snapshot()
    assert sample is not None
    assert list(sample.features) == ["text", *(f"wide[{index}]" for index in range(COLUMNS - 1))]
    assert set(sample.features["text"]) == {"x" * CHARACTERS}


def compared_batch(seed: int, rows: int, share: float) -> Compared:
    """Returns a batch of which a share of the rows differs; their first number says which."""
    differ = np.random.default_rng(seed).random(rows) < share
    x = np.stack([np.where(differ, 1, -1), np.zeros(rows)], axis=1).astype(np.float32)
    request = parse(record_of({"x": x}, {"sum": x.sum(axis=1) + differ.astype(np.float32)}), Fits(ADDER, True))
    assert request is not None
    ended = Trial(Adder(), choose(ADDER, ()), 1 << 60).of(Batch((request,)))
    assert ended is not None
    found = ended[0]
    assert isinstance(found, Compared)
    return found


@pytest.mark.parametrize("most", [100, 1000])
def test_a_sample_stays_within_its_bounds_and_says_what_its_rows_stand_for(most: int) -> None:
    rows = Rows(most, seed=1)
    for batch in range(60):
        rows.settle(compared_batch(batch, 256, 0.1))
    sample = rows.snapshot()
    assert sample is not None
    assert most // 4 <= len(sample.differ) <= most
    assert rows.seen == 60 * 256
    differing = sample.weights[sample.differ].sum()
    assert differing == pytest.approx(0.1 * 60 * 256, rel=0.4)
    assert sample.weights.sum() == pytest.approx(60 * 256, rel=0.4)
    # The features of a row stay with it: the fake writes into them whether the row differs.
    assert np.array_equal(sample.features["x[0]"] > 0, sample.differ)


async def test_what_a_search_took_is_left_to_the_comparison_many_times_over() -> None:
    now = [0.0]
    differences = Differences(msgspec.structs.replace(OFF, segment_rows=20_000), lambda: now[0])

    async def found() -> int:
        async with asyncio.timeout(60):
            while not (searches := differences.searched()):
                await asyncio.sleep(0.001)
        return searches[0].rows

    differences.settle(compared_batch(1, 1000, 0.1))
    assert differences.searched() == ()
    now[0] = 1.0
    assert await found() == 1000
    differences.settle(compared_batch(2, 9000, 0.1))
    now[0] += PAUSE - 0.1
    # Nothing has begun that could be found later.
    assert differences.searched() == ()
    assert differences._searching is None
    now[0] += 0.1
    assert await found() == 10_000
    await differences.finish(60)
