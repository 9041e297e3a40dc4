from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.shadow.fakes import ADDER, POISON, Adder, added, on_the_wire, record_of

from gnomon_protos.tensors import FIXED, Array
from gnomon_server.errors import Internal, LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import CompareSettings, MirrorSettings
from gnomon_server.shadow.batching import group, parse
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.outcome import Uncompared
from gnomon_server.shadow.pipeline import NOTHING, Pipeline
from gnomon_server.shadow.traces import BURST, KEPT_SAMPLED
from gnomon_server.shadow.trial import Trial
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.record import Record
from gnomon_server.wire.tallies import PairTally

OUTCOMES = ("compared", "shadow_error", "timeout", "dropped", "not_comparable")
DEFAULTS = MirrorSettings()
STRANGER = record_of({"z": np.ones((1, 2), np.float32)}, {"sum": np.ones(1, np.float32)})


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def take(pipeline: Pipeline, records: list[Record]) -> None:
    for one in records:
        pipeline.take(one, len(on_the_wire(one)))


async def worked(
    shadow: Adder,
    records: list[Record],
    executor: ThreadPoolExecutor,
    mirror: MirrorSettings = DEFAULTS,
    looking: CompareSettings = NOTHING,
) -> WorkerReport:
    """Returns the last report of a pipeline that took these records."""
    pipeline = Pipeline(shadow, mirror, "", executor, looking=looking)
    take(pipeline, records)
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    return pipeline.report("epoch")


def outcomes(tally: PairTally) -> dict[str, int]:
    return {name: getattr(tally, name) for name in OUTCOMES if getattr(tally, name)}


async def test_agreement_is_the_share_of_rows_that_agree(executor: ThreadPoolExecutor) -> None:
    half = record_of({"x": np.ones((2, 2), np.float32)}, {"sum": np.array([2, 3], np.float32)})
    report = await worked(Adder(), [added(), half, added(wrong=1), added([])], executor)
    (tally,) = report.pairs
    assert outcomes(tally) == {"compared": 4}
    assert tally.agreement_sum == pytest.approx(1 + 0.5 + 0 + 1)
    assert tally.disagreeing == 2
    (output,) = tally.outputs
    assert (output.output, output.comparator, output.rows, output.disagreements) == ("sum", "isclose", 4, 2)
    assert (output.divergence_sum, output.divergence_max, sum(output.histogram.counts)) == (2, 1, 4)
    assert sum(tally.shadow_runs.counts) == sum(tally.primary_runs.counts) == 4
    assert tally.primary_runs.total == pytest.approx(4 * 0.001)


class Halves(Adder):
    """An Adder in bfloat16."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        return [output.astype(FIXED["BF16"]) for output in super().run(inputs, outputs)]


async def test_bfloat16_is_compared_by_its_numbers(executor: ThreadPoolExecutor) -> None:
    signature = Signature((TensorSpec("x", "BF16", (-1, 2)),), (TensorSpec("sum", "BF16", (-1,)),))
    x = np.array([[1, 2], [np.nan, 0], [4, 5], [1, 1]], np.float32).astype(FIXED["BF16"])
    answered = np.array([3, np.nan, 9, 5], np.float32)
    records = [record_of({"x": x}, {"sum": answered.astype(dtype)}) for dtype in (FIXED["BF16"], np.dtype(np.float32))]
    (tally,) = (await worked(Halves(signature=signature), records, executor)).pairs
    assert outcomes(tally) == {"compared": 2}
    (output,) = tally.outputs
    assert (output.comparator, output.rows, output.disagreements) == ("isclose", 8, 2)


async def test_a_row_agrees_only_if_all_outputs_do(executor: ThreadPoolExecutor) -> None:
    both = Signature(ADDER.inputs, (*ADDER.outputs, TensorSpec("other", "FP32", (-1,))))
    x, right, wrong = np.ones((2, 2), np.float32), np.array([2, 2], np.float32), np.array([2, 9], np.float32)
    record = record_of({"x": x}, {"sum": right, "other": wrong})
    (tally,) = (await worked(Adder(signature=both), [record], executor)).pairs
    assert tally.agreement_sum == pytest.approx(0.5)
    assert {output.output: output.disagreements for output in tally.outputs} == {"sum": 0, "other": 1}


async def test_a_divergence_within_its_tolerance_agrees(executor: ThreadPoolExecutor) -> None:
    lenient = Comparison("sum", "exact", {}, 1.0)
    (tally,) = (await worked(Adder(bias=5, comparisons=(lenient,)), [added()], executor)).pairs
    assert (tally.agreement_sum, tally.outputs[0].divergence_sum) == (1, 1)


async def test_a_divergence_within_the_floor_agrees_and_the_rest_is_counted_net_of_it(
    executor: ThreadPoolExecutor,
) -> None:
    # The Adder gives 3 where the primary gave 4: they are a seventh of their sum apart.
    near, far = Comparison("sum", "relative", {}, 0.0, floor=0.15), Comparison("sum", "relative", {}, 0.0, floor=0.1)
    (tally,) = (await worked(Adder(comparisons=(near,)), [added(wrong=1)], executor)).pairs
    assert (tally.agreement_sum, tally.outputs[0].net_sum) == (1, 0)
    (tally,) = (await worked(Adder(comparisons=(far,)), [added(wrong=1), added()], executor)).pairs
    assert (tally.agreement_sum, tally.outputs[0].disagreements) == (1, 1)
    assert tally.outputs[0].divergence_sum == pytest.approx(1 / 7)
    assert tally.outputs[0].floor == 0.1
    assert tally.outputs[0].net_sum == pytest.approx(1 / 7 - 0.1)


async def test_waiting_requests_share_a_run(executor: ThreadPoolExecutor) -> None:
    shadow = Adder()
    await worked(shadow, [added() for _ in range(20)], executor, MirrorSettings(batch_rows=8))
    assert shadow.runs == [8, 8, 4]


async def test_requests_of_a_shadow_with_dependent_rows_run_one_by_one(executor: ThreadPoolExecutor) -> None:
    shadow = Adder(coalescable=False)
    (tally,) = (await worked(shadow, [added() for _ in range(3)], executor)).pairs
    assert shadow.runs == [1, 1, 1]
    assert outcomes(tally) == {"compared": 3}


async def test_only_the_guilty_request_of_a_batch_is_a_shadow_error(executor: ThreadPoolExecutor) -> None:
    records = [added([[i, POISON if i == 3 else i]]) for i in range(6)]
    report = await worked(Adder(), records, executor)
    assert outcomes(report.pairs[0]) == {"compared": 5, "shadow_error": 1}
    assert [trace.outcome for trace in report.traces] == ["shadow_error"]


@pytest.mark.parametrize("error", [Internal("execution failed"), MemoryError(), ZeroDivisionError("defect")])
async def test_whatever_a_shadow_raises_is_its_outcome(executor: ThreadPoolExecutor, error: Exception) -> None:
    (tally,) = (await worked(Adder(error=error), [added() for _ in range(3)], executor)).pairs
    assert outcomes(tally) == {"shadow_error": 3}


async def test_each_primary_has_a_tally_of_its_own(executor: ThreadPoolExecutor) -> None:
    records = [added(primary=1), added(primary=3, wrong=1), added(primary=1)]
    report = await worked(Adder(), records, executor)
    assert [(t.primary, t.shadow, t.compared, t.disagreeing) for t in report.pairs] == [(1, 2, 2, 0), (3, 2, 1, 1)]


async def test_requests_that_do_not_fit_are_not_run(executor: ThreadPoolExecutor) -> None:
    shadow = Adder()
    (tally,) = (await worked(shadow, [STRANGER], executor)).pairs
    assert outcomes(tally) == {"not_comparable": 1}
    assert shadow.runs == []


async def test_requests_past_their_deadline_are_not_run(executor: ThreadPoolExecutor) -> None:
    shadow = Adder()
    (tally,) = (await worked(shadow, [added(age=99), added(), added(age=99)], executor)).pairs
    assert outcomes(tally) == {"timeout": 2, "compared": 1}
    assert shadow.runs == [1]


class Slow(Adder):
    """Takes `seconds` a run, on a clock of its own."""

    def __init__(self, seconds: float, now_ns: int) -> None:
        super().__init__()
        self.seconds = seconds
        self.now_ns = now_ns

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.now_ns += int(self.seconds * 1e9)
        return super().run(inputs, outputs)


def test_an_answer_past_the_deadline_is_not_compared() -> None:
    old, new = added(age=5), added([[1, 1], [2, 2]], wrong=1)
    shadow = Slow(8, now_ns=new.end_ns)
    requests = [parse(one, Fits(ADDER, coalescable=True)) for one in (old, new)]
    (batch,) = group([request for request in requests if request is not None], 256)
    ended = Trial(shadow, choose(ADDER, ()), 10_000_000_000, lambda: shadow.now_ns).of(batch)
    assert ended is not None
    late, compared = ended
    assert isinstance(late, Uncompared)
    assert (late.records, late.outcome) == ([old], "timeout")
    assert isinstance(compared, Compared)
    assert [request.record for request in compared.batch.requests] == [new]
    assert compared.agreement.tolist() == [0]
    assert compared.divergences["sum"].tolist() == [1, 1]
    assert compared.end_ns - compared.start_ns == 8_000_000_000


async def test_a_stuck_shadow_leaves_the_loop_free_and_what_waits_behind_it_counted(
    executor: ThreadPoolExecutor,
) -> None:
    gate = threading.Event()
    shadow = Adder(gate)
    pipeline = Pipeline(shadow, MirrorSettings(queue_bytes=4096), "", executor)
    take(pipeline, [added()])
    running = asyncio.create_task(pipeline.run())
    await asyncio.to_thread(shadow.started.wait)
    take(pipeline, [added(age=99), *(added() for _ in range(30))])
    report = pipeline.report("epoch")
    (tally,) = report.pairs
    assert tally.timeout == 1
    assert tally.dropped > 0
    assert report.queue_depth + sum(outcomes(tally).values()) == 32
    await pipeline.finish(running, 0)
    gate.set()
    report = pipeline.report("epoch")
    assert sum(outcomes(report.pairs[0]).values()) == 32
    assert report.pairs[0].compared == 0


async def test_an_answer_of_another_shape_diverges_in_every_row(executor: ThreadPoolExecutor) -> None:
    wide = Signature(ADDER.inputs, (TensorSpec("sum", "FP32", (-1, -1)),))
    record = record_of({"x": np.ones((2, 2), np.float32)}, {"sum": np.ones((2, 3), np.float32)})
    (tally,) = (await worked(Adder(signature=wide), [record], executor)).pairs
    assert (outcomes(tally), tally.agreement_sum, tally.outputs[0].disagreements) == ({"compared": 1}, 0, 2)


class Classifier(Adder):
    """Always sure of the first class by its label, torn between both by its probabilities."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        rows = len(inputs["x"])
        answers: dict[str, Array] = {"label": np.zeros(rows, np.int64), "prob": np.full((rows, 2), 0.5, np.float32)}
        return [answers[name] for name in outputs]


async def test_a_tied_label_agrees_though_the_client_asked_for_labels_only(executor: ThreadPoolExecutor) -> None:
    outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("prob", "FP32", (-1, 2)))
    shadow = Classifier(signature=Signature(ADDER.inputs, outputs))
    record = record_of({"x": np.ones((3, 2), np.float32)}, {"label": np.array([0, 1, 5])})
    (tally,) = (await worked(shadow, [record], executor)).pairs
    assert tally.agreement_sum == pytest.approx(2 / 3)
    assert [output.output for output in tally.outputs] == ["label"]


async def test_an_answer_without_rows_is_compared_as_a_whole(executor: ThreadPoolExecutor) -> None:
    whole = Signature((TensorSpec("x", "FP32", (2, 2)),), (TensorSpec("sum", "FP32", (2,)),))
    records = [
        record_of({"x": np.ones((2, 2), np.float32)}, {"sum": np.array([2, last], np.float32)}) for last in (2, 3)
    ]
    (tally,) = (await worked(Adder(signature=whole, coalescable=False), records, executor)).pairs
    assert (tally.compared, tally.agreement_sum, tally.outputs[0].rows) == (2, 1, 2)


async def test_divergent_and_sampled_requests_are_traced(executor: ThreadPoolExecutor) -> None:
    records = [added(), added(wrong=1), added(sampled=True), added(sampled=True, wrong=1)]
    report = await worked(Adder(), records, executor)
    assert [(trace.divergent, trace.unsampled) for trace in report.traces] == [
        (True, True),
        (False, False),
        (True, False),
    ]
    first, source = report.traces[0], records[1]
    assert first.divergences == (("sum", 1.0),)
    assert (first.model, first.version, first.outcome) == ("adder", 2, "compared")
    assert 0 < first.start_ns <= first.end_ns
    call = first.call
    assert (call.trace_id, call.span_id, call.start_ns, call.end_ns) == (
        source.trace_id,
        source.span_id,
        source.start_ns,
        source.end_ns,
    )
    assert (call.method, call.status, call.version) == ("inference.GRPCInferenceService/ModelInfer", "OK", 1)


async def test_traces_of_agreement_leave_room_for_those_of_divergence(executor: ThreadPoolExecutor) -> None:
    records = [added(sampled=True) for _ in range(2 * KEPT_SAMPLED)] + [added(wrong=1) for _ in range(BURST + 1)]
    # No more than the burst, however long it takes.
    report = await worked(Adder(), records, executor, looking=msgspec.structs.replace(NOTHING, traces=0.0))
    assert sum(trace.divergent for trace in report.traces) == BURST
    assert len(report.traces) == BURST + KEPT_SAMPLED
    assert report.traces_dropped == KEPT_SAMPLED + 1


async def test_a_trace_is_reported_once(executor: ThreadPoolExecutor) -> None:
    pipeline = Pipeline(Adder(bias=1), MirrorSettings(), "", executor)
    take(pipeline, [added()])
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    first, second = pipeline.report("epoch"), pipeline.report("epoch")
    assert (len(first.traces), len(second.traces)) == (1, 0)
    assert first.pairs == second.pairs


def test_a_comparison_that_cannot_be_made_fails_the_version(executor: ThreadPoolExecutor) -> None:
    with pytest.raises(LoadError, match="received 'vibes'"):
        Pipeline(Adder(comparisons=(Comparison("sum", "vibes", {}, 0),)), MirrorSettings(), "", executor)


KINDS: dict[str, Callable[[], Record]] = {
    "good": added,
    "wrong": lambda: added([[1, 2], [3, 4]], wrong=1),
    "typed": lambda: added(typed=True),
    "empty": lambda: added([]),
    "poison": lambda: added([[POISON, 1]]),
    "late": lambda: added(age=99),
    "stranger": lambda: STRANGER,
    "large": lambda: added([[1, 2]] * 400),
}


@settings(max_examples=60)
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), max_size=40),
    coalescable=st.booleans(),
    batch_rows=st.sampled_from([1, 4, 256]),
    queue_bytes=st.sampled_from([1024, 8192, 1 << 20]),
    grace=st.sampled_from([0.0, 60.0]),
)
def test_every_record_ends_in_exactly_one_outcome(
    kinds: list[str], coalescable: bool, batch_rows: int, queue_bytes: int, grace: float
) -> None:
    async def run() -> WorkerReport:
        mirror = MirrorSettings(batch_rows=batch_rows, queue_bytes=queue_bytes)
        with ThreadPoolExecutor(1) as executor:
            pipeline = Pipeline(Adder(coalescable=coalescable), mirror, "", executor)
            running = asyncio.create_task(pipeline.run())
            for position, kind in enumerate(kinds):
                take(pipeline, [KINDS[kind]()])
                if position % 7 == 6:
                    await asyncio.sleep(0)
            await pipeline.finish(running, grace)
            return pipeline.report("epoch")

    report = asyncio.run(run())
    assert report.queue_depth == 0
    assert sum(sum(outcomes(tally).values()) for tally in report.pairs) == len(kinds)
    for tally in report.pairs:
        assert tally.compared == sum(tally.shadow_runs.counts) == sum(tally.primary_runs.counts)
        assert 0 <= tally.compared - tally.agreement_sum <= tally.disagreeing
