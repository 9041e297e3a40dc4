"""Requests in shared memory: they become what they would be without it, and their outputs go where they should."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_calls import output, request, typed
from server.serving.fakes import Doubler, HeldCall, Reader, shadow

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import Exhausted, GnomonError, InvalidRequest, NotFound
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.placing import Placing
from gnomon_server.serving.regions import ROOT, Regions
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.telemetry.sampling import Sampler
from gnomon_server.wire.plans import RegionRef

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
SIZE = 256
MOST = 1 << 10


class Pair(Doubler):
    """y = 2 x, and takes a second input that changes nothing."""

    def __init__(self) -> None:
        super().__init__(1, "pair")
        specs = tuple(TensorSpec(name, "FP32", (-1, 3)) for name in ("x", "other"))
        self.signature = Signature(specs, (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("z", "FP32", (-1, 3))))


class Bench:
    """A frontend with one region, `memory`, over the whole of a file of shared memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.feeds: Sequence[Feed] = ()
        self.observation = Observation(Sampler(1.0, parent_based=True, seed=1))
        self.inferences = Inferences(self.observation, lambda _: self.feeds)
        regions = Regions()
        regions.wish([RegionRef("memory", path.name, 0, SIZE)])
        self.placing = Placing(self.inferences.accept, regions, MOST)
        models: tuple[Doubler, ...] = (Doubler(1), Pair())
        self.table = RouteTable({one.model: ModelRoute(one.model, one, {1: one}, ()) for one in models})

    def put(self, offset: int, array: Any) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(array.tobytes())

    def held(self, offset: int, shape: tuple[int, ...]) -> Any:
        return np.frombuffer(self.path.read_bytes(), np.float32, int(np.prod(shape)), offset).reshape(shape)

    async def ask(self, message: pb.ModelInferRequest) -> HeldCall:
        call = HeldCall(message.SerializeToString())
        try:
            self.placing.accept(call, self.table)
        except GnomonError as error:
            call.fail(error)
        self.inferences.after_pass()
        await asyncio.wait_for(call.over.wait(), 30)
        self.inferences.settle()
        self.observation.calls_ended([(call, "OK")])
        return call


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    path = ROOT / f"gnomon-test-{secrets.token_hex(8)}"
    path.write_bytes(bytes(SIZE))
    made = Bench(path)
    yield made
    path.unlink()
    await asyncio.to_thread(made.inferences.close)


def at(tensor: Any, size: int, offset: int | None = None, region: str = "memory") -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset is not None:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def placed(size: int = 12, offset: int | None = None, **fields: Any) -> pb.ModelInferRequest:
    """A request for `line` whose only input lies in the region."""
    made = pb.ModelInferRequest(model_name="line", **fields)
    at(made.inputs.add(name="x", datatype="FP32", shape=[1, 3]), size, offset)
    return made


def answered(call: HeldCall) -> pb.ModelInferResponse:
    assert isinstance(call.result, bytes), call.result
    return pb.ModelInferResponse.FromString(call.result)


async def test_an_input_is_read_from_where_it_lies(bench: Bench) -> None:
    bench.put(0, ROW)
    bench.put(100, ROW + 1)
    assert output(answered(await bench.ask(placed()))).tolist() == (2 * ROW).tolist()
    assert output(answered(await bench.ask(placed(offset=100, id="two")))).tolist() == (2 * (ROW + 1)).tolist()


async def test_raw_contents_are_those_of_the_other_inputs(bench: Bench) -> None:
    bench.put(8, ROW)
    for first, second in (("x", "other"), ("other", "x")):
        message = pb.ModelInferRequest(model_name="pair")
        for name in (first, second):
            message.inputs.add(name=name, datatype="FP32", shape=[1, 3])
        at(message.inputs[0 if first == "x" else 1], 12, 8)
        message.raw_input_contents.append((ROW + 5).tobytes())
        assert output(answered(await bench.ask(message))).tolist() == (2 * ROW).tolist()


async def test_an_output_goes_where_it_should_and_takes_no_place_in_the_answer(bench: Bench) -> None:
    message = request("pair", {"x": ROW, "other": ROW}, id="one")
    at(message.outputs.add(name="z"), 100, 64)
    message.outputs.add(name="y")
    answer = answered(await bench.ask(message))
    assert (answer.id, [tensor.name for tensor in answer.outputs]) == ("one", ["z", "y"])
    assert [len(raw) for raw in answer.raw_output_contents] == [12]
    assert bench.held(64, (1, 3)).tolist() == (2 * ROW).tolist()
    assert not any(bench.held(64 + 12, (10,)))
    parameters = answer.outputs[0].parameters
    assert (parameters["shared_memory_region"].string_param, parameters["shared_memory_offset"].int64_param) == (
        "memory",
        64,
    )
    assert parameters["shared_memory_byte_size"].int64_param == 12


async def test_placed_outputs_are_raw_also_for_a_client_that_wants_them_typed(bench: Bench) -> None:
    message = typed("line", {"x": ROW})
    message.parameters["binary_data_output"].bool_param = False
    at(message.outputs.add(name="y"), 12)
    answer = answered(await bench.ask(message))
    assert (list(answer.raw_output_contents), answer.outputs[0].HasField("contents")) == ([], False)
    assert bench.held(0, (1, 3)).tolist() == (2 * ROW).tolist()


async def test_an_output_that_does_not_fit_is_the_clients_mistake_and_nothing_is_written(bench: Bench) -> None:
    message = request("line", {"x": ROW})
    at(message.outputs.add(name="y"), 11)
    call = await bench.ask(message)
    assert isinstance(call.result, InvalidRequest)
    assert str(call.result) == (
        "model 'line' version '1': output 'y': expected shared_memory_byte_size of at least 12, received 11"
    )
    assert not any(bench.path.read_bytes())


async def test_a_shadow_gets_what_the_memory_held_and_the_whole_answer(bench: Bench) -> None:
    bench.put(0, ROW)
    message = placed(id="one")
    at(message.outputs.add(name="y"), 12, 64)
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        async with Reader(f"{folder}/feed.sock") as worker:
            feed = Feed(shadow(worker.address), 1 << 20)
            await feed.connect()
            bench.feeds = (feed,)
            await bench.ask(message)
            # The client goes on with its memory at once.
            bench.put(0, ROW + 100)
            bench.put(64, ROW + 100)
            (received,) = await worker.records(1)
            await feed.drain(1)
    asked = pb.ModelInferRequest.FromString(received.request)
    assert (asked.id, list(asked.raw_input_contents), dict(asked.inputs[0].parameters)) == ("one", [ROW.tobytes()], {})
    assert output(pb.ModelInferResponse.FromString(received.response)).tolist() == (2 * ROW).tolist()
    (trace,) = bench.observation.take_traces()
    assert (trace.model, trace.span_id) == ("line", received.span_id)


async def test_what_nobody_waits_for_is_not_written(bench: Bench) -> None:
    gate = threading.Event()
    slow = Doubler(1, gate=gate)
    message = request("line", {"x": ROW})
    at(message.outputs.add(name="y"), 12)
    call = HeldCall(message.SerializeToString())
    bench.placing.accept(call, RouteTable({"line": ModelRoute("line", slow, {1: slow}, ())}))
    bench.inferences.after_pass()
    async with asyncio.timeout(30):
        while not slow.threads:
            await asyncio.sleep(0.002)
        # While it runs, the client goes away, and may use its memory for something else.
        call.ended = True
        gate.set()
        while bench.inferences.in_flight:
            await asyncio.sleep(0.002)
    assert call.result is None
    assert not any(bench.path.read_bytes())


def wrong() -> Iterator[tuple[str, pb.ModelInferRequest, type[GnomonError], str]]:
    unknown = placed()
    unknown.inputs[0].parameters["shared_memory_region"].string_param = "nobody"
    yield "region", unknown, NotFound, "input 'x': shared memory region 'nobody' not found"
    yield "bounds", placed(12, SIZE - 8), InvalidRequest, f"expected at most {SIZE} bytes, received 12 from offset 248"
    yield "far", placed(12, (1 << 63) - 1), InvalidRequest, f"expected at most {SIZE} bytes"
    yield "large", placed(MOST + 1), Exhausted, f"expected at most {MOST} bytes of inputs, received more"
    yield "size", placed(8), InvalidRequest, "input 'x': expected 12 bytes for FP32 [1, 3], received 8"
    yield "negative", placed(-1), InvalidRequest, "parameter 'shared_memory_byte_size': expected >= 0, received -1"
    below = placed(12, -1)
    yield "below", below, InvalidRequest, "parameter 'shared_memory_offset': expected >= 0, received -1"
    both = placed()
    both.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    yield "contents", both, InvalidRequest, "input 'x': expected no contents beside shared memory"
    more = placed()
    more.raw_input_contents.append(ROW.tobytes())
    yield "raw", more, InvalidRequest, "expected 0 raw_input_contents, one per input that is not in shared memory"
    nothing = pb.ModelInferRequest(model_name="pair")
    at(nothing.inputs.add(name="x", datatype="FP32", shape=[1, 3]), 12)
    nothing.inputs.add(name="other", datatype="FP32", shape=[1, 3])
    yield "missing", nothing, InvalidRequest, "input 'other': expected raw_input_contents or shared memory"
    no_size = placed()
    del no_size.inputs[0].parameters["shared_memory_byte_size"]
    yield "no size", no_size, InvalidRequest, "expected parameter 'shared_memory_byte_size'"
    no_region = placed()
    del no_region.inputs[0].parameters["shared_memory_region"]
    yield "no region", no_region, InvalidRequest, "expected parameter 'shared_memory_region'"
    text = placed()
    text.inputs[0].parameters["shared_memory_byte_size"].string_param = "12"
    yield "type", text, InvalidRequest, "'shared_memory_byte_size': expected int64_param, received string_param"
    output = request("line", {"x": ROW})
    at(output.outputs.add(name="y"), 12, region="nobody")
    yield "output", output, NotFound, "output 'y': shared memory region 'nobody' not found"


@pytest.mark.parametrize(("message", "kind", "text"), [case[1:] for case in wrong()], ids=[case[0] for case in wrong()])
async def test_what_cannot_be_placed_says_what_was_expected(
    message: pb.ModelInferRequest, kind: type[GnomonError], text: str, bench: Bench
) -> None:
    call = await bench.ask(message)
    assert type(call.result) is kind, call.result
    assert str(call.result).startswith(f"model '{message.model_name}'")
    assert text in str(call.result)
    assert bench.inferences.in_flight == 0


async def test_a_word_in_the_numbers_is_no_shared_memory(bench: Bench) -> None:
    message = request("line", {"x": np.frombuffer(b"shared_memory_region....", np.float32).reshape(2, 3)})
    answer = answered(await bench.ask(message))
    assert len(answer.raw_output_contents[0]) == 24
