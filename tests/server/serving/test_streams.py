"""ModelStreamInfer over every transport: many requests, one call, each answered as by itself."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_calls import output, request
from server.serving.fakes import Doubler, HeldCall, Reader, shadow

from gnomon_protos import inference_pb2 as pb
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.serving.streams import MOST_BYTES, MOST_REQUESTS, Streams
from gnomon_server.serving.transport import Stream, Transport
from gnomon_server.serving.transport.grpcio import GrpcioTransport
from gnomon_server.serving.transport.http2 import Http2Transport
from gnomon_server.telemetry.sampling import Sampler

PATH = "/test.Inference/ModelStreamInfer"
ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LARGEST = 64 << 20


class Bench:
    """A frontend with streams alone: `fast` answers at once, `held` when its gate opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.fast, self.held = Doubler(1, "fast"), Doubler(1, "held", gate=self.gate)
        self.observation = Observation(Sampler(1.0, parent_based=True, seed=1))
        self.feeds: Sequence[Feed] = ()
        self.inferences = Inferences(self.observation, lambda _: self.feeds)
        models = (self.fast, self.held)
        table = RouteTable({one.model: ModelRoute(one.model, one, {1: one}, ()) for one in models})
        self.streams = Streams(self.inferences.accept, self.run, self.observation, lambda: table)
        self.transport: Transport | None = None

    def run(self) -> None:
        self.inferences.after_pass()
        self.inferences.settle()

    def runs(self, model: str) -> int:
        self.inferences.settle()
        counts = self.observation.inferences()
        return sum(sum(count.batches.counts) for count in counts if count.model == model)


class Talk:
    """One stream as its client has it."""

    def __init__(self, channel: grpc.aio.Channel, **how: Any) -> None:
        stream: Any = channel.stream_stream(PATH, response_deserializer=pb.ModelStreamInferResponse.FromString)
        self.call = stream(timeout=60, **how)

    async def say(self, *requests: pb.ModelInferRequest) -> None:
        for one in requests:
            await self.call.write(one.SerializeToString())

    async def hear(self) -> pb.ModelStreamInferResponse:
        answer = await self.call.read()
        assert isinstance(answer, pb.ModelStreamInferResponse), await self.status()
        return answer

    async def rest(self) -> list[pb.ModelStreamInferResponse]:
        await self.call.done_writing()
        answers = []
        while isinstance(answer := await self.call.read(), pb.ModelStreamInferResponse):
            answers.append(answer)
        return answers

    async def status(self) -> tuple[str, str]:
        return (await self.call.code()).name, await self.call.details()


def asked(model: str = "fast", number: int = 0, rows: int = 1) -> pb.ModelInferRequest:
    return request(model, {"x": np.repeat(ROW, rows, 0) + number}, id=f"id {number}")


def numbers(answers: Sequence[pb.ModelStreamInferResponse]) -> list[str]:
    assert [answer.error_message for answer in answers] == [""] * len(answers)
    return [answer.infer_response.id for answer in answers]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def serving(maker: Any) -> AsyncIterator[tuple[Bench, grpc.aio.Channel]]:
    bench = Bench()
    methods = bench.streams.methods("test.Inference")
    observer, after_pass = bench.observation.calls_ended, bench.inferences.after_pass
    transport: Transport = maker(methods, observer, after_pass, "127.0.0.1:0", LARGEST)
    bench.transport = transport
    port = await transport.start()
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield bench, channel
    await transport.drain(0)
    bench.gate.set()
    await asyncio.to_thread(bench.inferences.close)


@pytest.fixture(params=[Http2Transport, GrpcioTransport], ids=lambda maker: maker.__name__)
async def room(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bench, grpc.aio.Channel]]:
    async with serving(request.param) as made:
        yield made


Room = tuple[Bench, grpc.aio.Channel]


async def test_every_request_has_its_answer_and_each_is_the_last_one_for_its_request(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    await talk.say(*(asked(number=number) for number in range(20)))
    answers = await talk.rest()
    assert numbers(answers) == [f"id {number}" for number in range(20)]
    for number, answer in enumerate(answers):
        assert output(answer.infer_response).tolist() == (2 * (ROW + number)).tolist()
        assert (answer.infer_response.model_name, answer.infer_response.model_version) == ("fast", "1")
        assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert await talk.status() == ("OK", "")
    assert bench.inferences.in_flight == 0


async def test_a_client_may_wait_for_each_answer_before_it_asks_again(room: Room) -> None:
    _, channel = room
    talk = Talk(channel)
    for number in range(5):
        await talk.say(asked(number=number))
        assert numbers([await talk.hear()]) == [f"id {number}"]
    assert await talk.rest() == []


async def test_answers_keep_the_order_of_their_requests(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    await talk.say(asked("held", 1), asked("fast", 2), asked("fast", 3))
    await until(lambda: bench.runs("fast"))
    bench.gate.set()
    assert numbers(await talk.rest()) == ["id 1", "id 2", "id 3"]


async def test_what_comes_together_runs_together(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    await talk.say(*(asked("held", number) for number in range(40)))
    await until(lambda: bench.inferences.in_flight == 40)
    bench.gate.set()
    assert len(numbers(await talk.rest())) == 40
    assert bench.runs("held") < 20


async def test_an_error_is_told_in_its_answer_and_the_stream_goes_on(room: Room) -> None:
    _, channel = room
    talk = Talk(channel)
    await talk.say(asked("nobody", 1), asked("fast", 2), request("fast", {"x": ROW.astype(np.float64)}, id="three"))
    await talk.call.write(b"\xff\xff\xff")
    await talk.say(asked("fast", 5))
    first, second, third, fourth, fifth = await talk.rest()
    assert first.error_message == "NOT_FOUND: model 'nobody' not found"
    assert (first.infer_response.id, first.infer_response.model_name) == ("id 1", "")
    assert third.error_message.startswith("INVALID_ARGUMENT: model 'fast' version '1': input 'x': expected datatype")
    assert third.infer_response.id == "three"
    assert fourth.error_message.startswith("INVALID_ARGUMENT: ModelInferRequest: expected a protobuf message")
    assert fourth.infer_response.id == ""
    assert all(one.infer_response.parameters["triton_final_response"].bool_param for one in (first, third, fourth))
    assert numbers([second, fifth]) == ["id 2", "id 5"]
    assert await talk.status() == ("OK", "")


async def test_a_client_that_wants_a_status_gets_that_of_the_first_error(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel, metadata=(("triton_grpc_error", "true"),))
    await talk.say(asked("fast", 1), asked("nobody", 2), asked("fast", 3))
    assert numbers([await talk.hear()]) == ["id 1"]
    assert await talk.status() == ("NOT_FOUND", "model 'nobody' not found")
    await until(lambda: bench.inferences.in_flight == 0)


async def test_a_stream_without_requests_ends_well(room: Room) -> None:
    _, channel = room
    talk = Talk(channel)
    assert await talk.rest() == []
    assert await talk.status() == ("OK", "")


async def test_what_a_cancelled_stream_asked_for_does_not_run(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    # Two runs at a time are begun, of three rows each; the rest waits.
    await talk.say(*(asked("held", number, rows=64) for number in range(6)))
    await until(lambda: bench.inferences.in_flight == 6 and len(bench.held.threads) == 2)
    talk.call.cancel()
    await until(lambda: any(call.status == "CANCELLED" for call in bench.observation.calls()))
    bench.gate.set()
    await until(lambda: bench.inferences.in_flight == 0)
    assert len(bench.held.threads) == 2
    bench.inferences.settle()
    ended = {count.error: sum(count.durations.counts) for count in bench.observation.inferences()}
    assert ended == {"": 2, "CANCELLED": 4}


async def test_a_stream_takes_no_more_than_its_share_until_answers_leave(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    writing = asyncio.create_task(talk.say(*(asked("held", number) for number in range(MOST_REQUESTS + 50))))
    await until(lambda: bench.inferences.in_flight == MOST_REQUESTS)
    # Another stream is not held up by it.
    other = Talk(channel)
    await other.say(asked("fast", 1))
    assert numbers([await other.hear()]) == ["id 1"]
    assert bench.inferences.in_flight == MOST_REQUESTS
    bench.gate.set()
    await writing
    assert numbers(await talk.rest()) == [f"id {number}" for number in range(MOST_REQUESTS + 50)]
    await other.rest()


async def test_large_requests_count_by_their_bytes(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    rows = MOST_BYTES // 12 // 4
    writing = asyncio.create_task(talk.say(*(asked("held", number, rows) for number in range(8))))
    await until(lambda: bench.inferences.in_flight == 4)
    other = Talk(channel)
    await other.say(asked("fast", 1))
    assert numbers(await other.rest()) == ["id 1"]
    assert bench.inferences.in_flight == 4
    bench.gate.set()
    answers = [await talk.hear() for _ in range(8)]
    await writing
    assert numbers([*answers, *await talk.rest()]) == [f"id {number}" for number in range(8)]


async def test_streams_that_hold_too_much_together_go_on_one_request_at_a_time(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, channel = room
    monkeypatch.setattr("gnomon_server.serving.streams.MOST_TOGETHER", 1000)
    first, second = Talk(channel), Talk(channel)
    await first.say(asked("held", 0, rows=100))
    await until(lambda: bench.inferences.in_flight == 1)
    writing = asyncio.create_task(second.say(*(asked("held", number) for number in range(20))))
    await until(lambda: bench.inferences.in_flight == 2)
    other = Talk(channel)
    await other.say(*(asked("fast", number) for number in range(20)))
    assert len(numbers(await other.rest())) == 20
    assert bench.inferences.in_flight == 2
    bench.gate.set()
    await writing
    assert len(numbers(await second.rest())) == 20
    assert numbers(await first.rest()) == ["id 0"]
    assert bench.streams._held._bytes == 0


async def test_a_shutdown_answers_what_was_taken_and_ends_the_stream(room: Room) -> None:
    bench, channel = room
    talk, idle = Talk(channel), Talk(channel)
    await talk.say(asked("held", 1))
    await idle.say(asked("fast", 2))
    await idle.hear()
    await until(lambda: bench.inferences.in_flight == 1)
    bench.streams.end()
    assert await idle.status() == ("UNAVAILABLE", "server is shutting down")
    bench.gate.set()
    assert numbers([await talk.hear()]) == ["id 1"]
    assert await talk.status() == ("UNAVAILABLE", "server is shutting down")


async def test_a_stream_that_its_client_has_ended_ends_well_also_during_a_shutdown(room: Room) -> None:
    bench, channel = room
    talk = Talk(channel)
    await talk.say(asked("held", 1))
    answers = asyncio.create_task(talk.rest())
    await until(lambda: bench.inferences.in_flight == 1)
    # The end of the requests has come as well.
    await until(lambda: all(line._closed for line in bench.streams._held.lines))
    bench.streams.end()
    bench.gate.set()
    assert numbers(await answers) == ["id 1"]
    assert await talk.status() == ("OK", "")


async def test_requests_of_a_stream_are_counted_mirrored_and_traced_like_others(room: Room) -> None:
    bench, channel = room
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        address = f"{folder}/feed.sock"
        async with Reader(address) as worker:
            feed = Feed(shadow(address), 1 << 20)
            await feed.connect()
            bench.feeds = (feed,)
            sent = [asked(number=number) for number in range(3)]
            talk = Talk(channel, metadata=(("traceparent", f"00-{TRACE}-{SPAN}-01"),))
            await talk.say(*sent)
            assert len(numbers(await talk.rest())) == 3
            bench.inferences.settle()
            received = await worker.records(3)
            await feed.drain(1)
    # They may run on several threads at a time, and end in any order.
    assert {found.request for found in received} == {one.SerializeToString() for one in sent}
    (count,) = bench.observation.inferences()
    assert (count.model, sum(count.durations.counts)) == ("fast", 3)
    await until(bench.observation.calls)
    (call,) = bench.observation.calls()
    assert (call.method, call.status, sum(call.durations.counts)) == ("test.Inference/ModelStreamInfer", "OK", 1)
    *requests, stream = bench.observation.take_traces()
    assert (stream.trace_id.hex(), stream.parent_id, stream.model) == (TRACE, int(SPAN, 16), "")
    assert [(one.trace_id, one.parent_id, one.model) for one in requests] == [
        (stream.trace_id, stream.span_id, "fast")
    ] * 3
    assert {one.span_id for one in requests} == {found.span_id for found in received}


VALID = asked().SerializeToString()
MESSAGES = st.lists(
    st.one_of(
        st.just(VALID),
        st.binary(max_size=40),
        st.integers(0, len(VALID)).map(lambda end: VALID[:end]),
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)).map(
            lambda change: VALID[: change[0]] + bytes([change[1]]) + VALID[change[0] + 1 :]
        ),
    ),
    max_size=20,
)


def test_whatever_bytes_come_each_message_has_one_answer_and_the_stream_goes_on() -> None:
    async def messages(given: list[bytes]) -> AsyncIterator[bytes]:
        for message in given:
            yield message

    async def answers(bench: Bench, given: list[bytes]) -> list[pb.ModelStreamInferResponse]:
        method = bench.streams.methods("s")["s/ModelStreamInfer"]
        assert isinstance(method, Stream)
        async with asyncio.timeout(30):
            return [
                pb.ModelStreamInferResponse.FromString(answer)
                async for answer in method.handle(HeldCall(), messages(given))
            ]

    async def made() -> Bench:
        return Bench()

    with asyncio.Runner() as runner:
        bench = runner.run(made())

        @given(MESSAGES)
        def check(given: list[bytes]) -> None:
            found = runner.run(answers(bench, given))
            assert len(found) == len(given)
            for message, answer in zip(given, found, strict=True):
                status = answer.error_message.partition(":")[0]
                assert status in ("", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")
                assert message != VALID or not status
            assert bench.inferences.in_flight == 0
            assert bench.streams._held._bytes == 0

        check()
        bench.inferences.close()
