"""One request through the frontend: answered, observed, and handed to the mirror."""

from __future__ import annotations

import asyncio
import gc
import re
import tempfile
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import numpy as np
import pytest
from raw_calls import output, request, typed
from server.serving.fakes import LINE, Doubler, HeldCall, Reader, shadow

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array
from gnomon_server.errors import Exhausted, Internal, InvalidRequest, NotFound
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.serving.execution import PARALLEL
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.inference import Inference
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.observation import MAX_TRACES, Observation
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.serving.selection import position, selected
from gnomon_server.telemetry.sampling import Sampler

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Bench:
    """A frontend without a transport: version 1 is the primary, 2 the previous one."""

    def __init__(self, primary: Doubler, share: float = 1.0) -> None:
        self.observation = Observation(Sampler(share, parent_based=True, seed=1))
        self.feeds: Sequence[Feed] = ()
        self.inferences = Inferences(self.observation, lambda _: self.feeds)
        self.table = RouteTable({"line": ModelRoute("line", primary, {1: primary, 2: Doubler(2)}, ())})

    def put(self, message: pb.ModelInferRequest, **call: str) -> HeldCall:
        """Has one request accepted, with its `call` metadata."""
        held = HeldCall(message.SerializeToString(), metadata=call)
        self.inferences.accept(held, self.table)
        self.inferences.after_pass()
        return held

    async def ask(self, message: pb.ModelInferRequest, **call: str) -> HeldCall:
        """Has one request answered."""
        held = self.put(message, **call)
        await asyncio.wait_for(held.over.wait(), 30)
        status = held.result.status if isinstance(held.result, Exception) else "OK"
        self.inferences.settle()
        self.observation.calls_ended([(held, status)])
        return held


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(Doubler(1))
    yield made
    await asyncio.to_thread(made.inferences.close)


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        yield f"{folder}/feed.sock"


def answered(call: HeldCall) -> pb.ModelInferResponse:
    assert isinstance(call.result, bytes)
    return pb.ModelInferResponse.FromString(call.result)


@pytest.mark.parametrize("form", [request, typed])
async def test_requests_of_one_kind_are_answered_alike_again_and_again(form: object, bench: Bench) -> None:
    assert callable(form)
    for number in range(20):
        row = ROW + number
        answer = answered(await bench.ask(form("line", {"x": row}, id=f"id {number}")))
        assert (answer.model_name, answer.model_version, answer.id) == ("line", "1", f"id {number}")
        assert output(answer).tolist() == (2 * row).tolist()
    assert bench.inferences.in_flight == 0


async def test_requests_in_flight_are_bounded_and_those_that_nobody_waits_for_make_room() -> None:
    gate = threading.Event()
    primary = Doubler(1, gate=gate)
    bench = Bench(primary)
    bench.inferences = Inferences(bench.observation, lambda _: (), most=4)
    message = request("line", {"x": ROW}).SerializeToString()
    calls = [HeldCall(message) for _ in range(4)]
    for call in calls:
        bench.inferences.accept(call, bench.table)
    with pytest.raises(Exhausted, match=r"^requests: expected at most 4 in flight, received one more than 4$"):
        bench.inferences.accept(HeldCall(message), bench.table)
    calls[0].ended = True
    await asyncio.sleep(0.01)
    last = HeldCall(message)
    bench.inferences.accept(last, bench.table)
    assert bench.inferences.in_flight == 4
    gate.set()
    bench.inferences.after_pass()
    await asyncio.wait_for(last.over.wait(), 30)
    assert bench.inferences.in_flight == 0
    await asyncio.to_thread(bench.inferences.close)


@pytest.mark.parametrize(
    ("given", "priority"), [({"uint64_param": 3}, 3), ({"int64_param": 1}, 1), ({"uint64_param": 0}, 0), (None, 0)]
)
async def test_a_request_waits_with_the_priority_that_it_names(
    given: dict[str, int] | None, priority: int, bench: Bench
) -> None:
    parameters = {} if given is None else {"priority": pb.InferParameter(**given)}  # type: ignore[arg-type]
    call = bench.put(request("line", {"x": ROW}, parameters=parameters))
    assert isinstance(call.note, Inference)
    assert call.note.layout.priority == priority
    # One that has another priority is of another kind, since a batch has one place in the line.
    other = bench.put(request("line", {"x": ROW}, parameters={"priority": pb.InferParameter(uint64_param=9)}))
    assert isinstance(other.note, Inference)
    assert other.note.layout.kind != call.note.layout.kind
    await asyncio.gather(call.over.wait(), other.over.wait())


async def test_what_has_ended_is_free_without_the_garbage_collector(bench: Bench) -> None:
    call = await bench.ask(request("line", {"x": ROW}))
    gone = weakref.ref(call)
    gc.disable()
    try:
        del call
        # The thread of the run lets go of it in its own time.
        async with asyncio.timeout(30):
            while gone() is not None:
                await asyncio.sleep(0.001)
    finally:
        gc.enable()


async def test_an_answer_explains_itself_if_it_is_asked_to(bench: Bench, address: str) -> None:
    explain = {"gnomon_explain": pb.InferParameter(bool_param=True)}
    feeds = [Feed(shadow(address, sample, version), 1 << 20) for sample, version in ((1.0, 3), (0.5, 2), (0.01, 4))]
    ids = [f"id {number}" for number in range(50)]
    seen = set()
    for request_id in ids:
        bench.feeds = ()
        alone = answered(await bench.ask(request("line", {"x": ROW}, id=request_id, parameters=explain)))
        assert alone.parameters["gnomon_version"].int64_param == 1
        assert alone.parameters["gnomon_role"].string_param == "primary"
        assert alone.parameters["gnomon_shadows"].string_param == ""
        bench.feeds = feeds
        before = [sum(count.selected for count in feed.counts()) for feed in feeds]
        asked = request("line", {"x": ROW}, id=request_id, parameters=explain)
        told = answered(await bench.ask(asked)).parameters["gnomon_shadows"].string_param
        after = [sum(count.selected for count in feed.counts()) for feed in feeds]
        chosen = [feed.target.version for feed, old, new in zip(feeds, before, after, strict=True) if new > old]
        assert told == ",".join(map(str, sorted(chosen)))
        seen.add(told)
    assert {"3", "2,3"} <= seen
    asked = request("line", {"x": ROW}, model_version="2", parameters=explain)
    other = answered(await bench.ask(asked)).parameters
    assert (other["gnomon_version"].int64_param, other["gnomon_role"].string_param) == (2, "previous")
    assert other["gnomon_shadows"].string_param == ""
    silent = request("line", {"x": ROW}, parameters={"gnomon_explain": pb.InferParameter(bool_param=False)})
    assert not answered(await bench.ask(silent)).parameters


class Lenient(Doubler):
    """y = 2 x, whatever `by` is."""

    signature = Signature((*LINE.inputs, TensorSpec("by", "FP32", (-1, 3), optional=True)), LINE.outputs)


async def test_only_requests_without_optional_inputs_are_joined() -> None:
    primary = Lenient()
    bench = Bench(primary)
    for inputs, runs in (({"x": ROW}, 1), ({"x": ROW, "by": ROW}, 4)):
        before = len(primary.threads)
        calls = [HeldCall(request("line", inputs).SerializeToString()) for _ in range(4)]
        for call in calls:
            bench.inferences.accept(call, bench.table)
        bench.inferences.after_pass()
        for call in calls:
            await asyncio.wait_for(call.over.wait(), 30)
            assert output(answered(call)).tolist() == (2 * ROW).tolist()
        assert len(primary.threads) - before == runs
    await asyncio.to_thread(bench.inferences.close)


async def test_a_request_sees_the_table_of_its_moment(bench: Bench) -> None:
    message = request("line", {"x": ROW})
    assert answered(await bench.ask(message)).model_version == "1"
    other = Doubler(2)
    bench.table = RouteTable({"line": ModelRoute("line", other, {2: other}, ())})
    assert answered(await bench.ask(message)).model_version == "2"
    bench.table = RouteTable()
    with pytest.raises(NotFound):
        await bench.ask(message)
    assert bench.inferences.in_flight == 0


class Both(Doubler):
    """y = 2 x and z = -x."""

    signature = Signature(LINE.inputs, (*LINE.outputs, TensorSpec("z", "FP32", (-1, 3))))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        (twice,) = super().run(inputs, ("y",))
        return [{"y": twice, "z": -inputs["x"]}[name] for name in outputs]


async def test_what_waits_while_the_route_changes_is_not_joined_with_what_comes_after_it() -> None:
    def asking(name: str, output: str) -> pb.ModelInferRequest:
        made = request("line", {"x": ROW}, id=name)
        made.outputs.add(name=output)
        return made

    gate = threading.Event()
    bench = Bench(Both(1, gate=gate))
    # The first ones run on threads, so that the others wait.
    before = [bench.put(asking(str(number), "y")) for number in range(PARALLEL + 1)]
    bench.table = RouteTable(dict(bench.table.models))
    after = bench.put(asking("after", "z"))
    after_too = bench.put(asking("after too", "z"))
    gate.set()
    for call, expected in (*((call, 2 * ROW) for call in before), (after, -ROW), (after_too, -ROW)):
        await asyncio.wait_for(call.over.wait(), 30)
        assert output(answered(call)).tolist() == expected.tolist()
    await asyncio.to_thread(bench.inferences.close)


async def test_a_refused_request_reaches_no_counter_of_inferences(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="model 'line' version '1': expected inputs"):
        await bench.ask(request("line", {}))
    assert bench.observation.inferences() == ()


async def test_a_named_version_that_is_not_the_primary_is_the_previous_one(bench: Bench) -> None:
    await bench.ask(request("line", {"x": ROW}))
    await bench.ask(request("line", {"x": ROW}, model_version="1"))
    await bench.ask(request("line", {"x": ROW}, model_version="2"))
    counts = {(count.version, count.role): sum(count.durations.counts) for count in bench.observation.inferences()}
    assert counts == {(1, "primary"): 2, (2, "previous"): 1}
    assert [(trace.version, trace.role) for trace in bench.observation.take_traces()] == [
        (1, "primary"),
        (1, "primary"),
        (2, "previous"),
    ]


async def test_a_trace_has_the_callers_context_and_the_time_of_the_run(bench: Bench) -> None:
    call = await bench.ask(request("line", {"x": ROW}), traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1")
    (trace,) = bench.observation.take_traces()
    assert (trace.trace_id.hex(), trace.parent_id, trace.trace_state) == (TRACE, int(SPAN, 16), "a=1")
    assert (trace.method, trace.status, trace.model, trace.version) == (call.method, "OK", "line", 1)
    assert trace.start_ns <= trace.run_start_ns <= trace.run_end_ns <= trace.end_ns
    assert bench.observation.take_traces() == ()
    await bench.ask(request("line", {"x": ROW}), traceparent=f"00-{TRACE}-{SPAN}-00")
    assert bench.observation.take_traces() == ()


async def test_traces_are_bounded_and_what_is_left_out_is_counted(bench: Bench) -> None:
    for _ in range(MAX_TRACES + 2):
        bench.observation.calls_ended([(HeldCall(), "OK")])
    assert bench.observation.traces_dropped == 2
    assert len(bench.observation.take_traces()) == MAX_TRACES


async def test_a_run_that_fails_names_its_trace_and_keeps_its_detail(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(Doubler(1, error=Internal("execution failed: secret")))
    call = await bench.ask(request("line", {"x": ROW}))
    assert isinstance(call.result, Internal)
    (trace,) = bench.observation.take_traces()
    assert str(call.result) == f"model 'line' version '1': execution failed; trace {trace.trace_id.hex()}"
    assert re.search(f"secret.*{trace.trace_id.hex()}", caplog.text)
    (count,) = bench.observation.inferences()
    assert (count.error, sum(count.durations.counts)) == ("INTERNAL", 1)
    await asyncio.to_thread(bench.inferences.close)


async def test_the_time_of_a_request_is_told_apart_by_what_it_was_spent_on() -> None:
    bench = Bench(Doubler(1, seconds=0.001))
    calls = [HeldCall(request("line", {"x": np.repeat(ROW, rows, 0)}).SerializeToString()) for rows in (1, 2)]
    for call in calls:
        bench.inferences.accept(call, bench.table)
    bench.inferences.after_pass()
    await asyncio.gather(*(call.over.wait() for call in calls))
    await bench.ask(request("line", {"x": ROW}))
    (count,) = bench.observation.inferences()
    assert (sum(count.durations.counts), sum(count.runs.counts)) == (3, 3)
    assert [(size.rows, size.runs) for size in count.sizes] == [(1, 1), (3, 1)]
    assert all(seconds > 0 for seconds in (count.queue, count.inputs, count.outputs))
    assert count.queue + count.inputs + count.runs.total + count.outputs <= count.durations.total
    # Of a run that two requests share, each of them counts the whole length, and the run itself once.
    assert sum(size.running for size in count.sizes) < count.runs.total < 2 * sum(size.running for size in count.sizes)
    assert sum(size.outputs for size in count.sizes) == pytest.approx(count.outputs)
    assert sum(size.inputs for size in count.sizes) <= count.inputs
    assert calls[0].start_ns < count.last_ns
    await asyncio.to_thread(bench.inferences.close)


async def test_requests_that_come_together_do_not_count_the_reading_of_each_other(bench: Bench) -> None:
    begin = time.perf_counter()
    calls = [HeldCall(typed("line", {"x": ROW}).SerializeToString()) for _ in range(50)]
    for call in calls:
        # As a transport does that looks at the clock once for all of them.
        call.start = begin
        bench.inferences.accept(call, bench.table)
    bench.inferences.after_pass()
    await asyncio.gather(*(call.over.wait() for call in calls))
    bench.inferences.settle()
    (count,) = bench.observation.inferences()
    assert sum(count.durations.counts) == 50
    # Each was read once, one after the other, and each run's inputs were joined once.
    assert 0 < sum(size.inputs for size in count.sizes) < time.perf_counter() - begin
    assert count.queue + count.inputs + count.runs.total <= count.durations.total


async def test_calls_are_counted_by_method_and_status(bench: Bench) -> None:
    for method, status in (("a/B", "OK"), ("a/B", "OK"), ("a/B", "NOT_FOUND"), ("_OTHER", "UNIMPLEMENTED")):
        bench.observation.calls_ended([(HeldCall(method=method), status)])
    counts = {(call.method, call.status): sum(call.durations.counts) for call in bench.observation.calls()}
    assert counts == {("a/B", "OK"): 2, ("a/B", "NOT_FOUND"): 1, ("_OTHER", "UNIMPLEMENTED"): 1}


async def test_what_the_primary_answered_goes_to_every_shadow_as_it_travelled(bench: Bench, address: str) -> None:
    async with Reader(address) as worker:
        feed = Feed(shadow(address), 1 << 20)
        await feed.connect()
        bench.feeds = (feed,)
        first = await bench.ask(request("line", {"x": ROW}, id="one"), traceparent=f"00-{TRACE}-{SPAN}-01")
        second = await bench.ask(typed("line", {"x": ROW}))
        await bench.ask(request("line", {"x": ROW}, model_version="2"))
        received = await worker.records(2)
        assert [(found.request, found.response) for found in received] == [
            (call.message, call.result) for call in (first, second)
        ]
        one, two = bench.observation.take_traces()[:2]
        assert [(found.trace_id, found.span_id) for found in received] == [
            (trace.trace_id, trace.span_id) for trace in (one, two)
        ]
        assert (received[0].primary, received[0].sampled, received[0].parent_id) == (1, True, int(SPAN, 16))
        assert received[0].start_ns <= received[0].run_start_ns <= received[0].run_end_ns <= received[0].end_ns
        # The previous version's answers are nobody's to compare.
        assert [count.selected for count in feed.counts()] == [2]
        feed.close()


async def test_a_failure_of_the_primary_is_selected_and_named_so(address: str) -> None:
    async with Reader(address):
        bench = Bench(Doubler(1, error=Internal("execution failed: boom")))
        feed = Feed(shadow(address), 1 << 20)
        await feed.connect()
        bench.feeds = (feed,)
        await bench.ask(request("line", {"x": ROW}))
        (count,) = feed.counts()
        assert (count.selected, count.dropped, count.primary_error) == (1, 0, 1)
        feed.close()
        await asyncio.to_thread(bench.inferences.close)


async def test_each_shadow_sees_its_share_by_id_and_the_smaller_one_a_part_of_the_larger(
    bench: Bench, address: str
) -> None:
    feeds = [Feed(shadow(address, sample), 1 << 20) for sample in (0.1, 0.5, 1.0)]
    bench.feeds = feeds
    ids = [f"id {number}" for number in range(200)]
    for request_id in ids:
        await bench.ask(request("line", {"x": ROW}, id=request_id))
    # Nobody listens: everything that is selected is dropped, and counted all the same.
    found = [sum(count.selected for count in feed.counts()) for feed in feeds]
    assert found == [sum(selected(position(one, b""), share) for one in ids) for share in (0.1, 0.5, 1.0)]
    assert 0 < found[0] < found[1] < found[2] == 200
