"""Inference on a stream: one answer or error each, and what ends the whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest
from client.fake_server import FakeServer

from gnomon_client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    FailedPrecondition,
    InferResult,
    InputError,
    InvalidArgument,
    Unavailable,
    Unknown,
)

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
SHORT = np.array([[1.0, 2.0]], np.float32)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        running.add_model("line", x=("FP32", [-1, -1]))
        yield running


async def answers(
    kind: str, server: FakeServer, inputs: Any, got: list[InferResult | ClientError] | None = None, **how: Any
) -> list[InferResult | ClientError]:
    """Everything that either client gives for these inputs; `got` has it too, as far as it came."""
    got = [] if got is None else got
    if kind == "sync":
        with Client(server.address) as client:
            for answer in client.stream_infer("line", inputs, **how):
                got.append(answer)
    else:
        async with AsyncClient(server.address) as client:
            async for answer in client.stream_infer("line", inputs, **how):
                got.append(answer)
    return got


both = pytest.mark.parametrize("kind", ["sync", "async"])


def said(found: list[InferResult | ClientError]) -> list[Any]:
    return [one["x"].tolist() if isinstance(one, InferResult) else one for one in found]


@both
async def test_each_of_the_inputs_has_its_answer_in_order(kind: str, server: FakeServer) -> None:
    found = await answers(kind, server, ([[number, 0, 0]] for number in range(50)))
    assert said(found) == [[[number, 0, 0]] for number in range(50)]
    assert server.recorder.methods()[:2] == ["ModelMetadata", "ModelStreamInfer"]


@both
async def test_an_error_stands_in_the_place_of_its_answer(kind: str, server: FakeServer) -> None:
    first, second, third = await answers(kind, server, [ROW, SHORT, ROW])
    assert isinstance(first, InferResult)
    assert isinstance(third, InferResult)
    assert isinstance(second, InvalidArgument)
    assert second.details == "input 'x': expected shape [-1, 3]"


@both
async def test_an_error_without_a_status_is_kept_whole(kind: str, server: FakeServer) -> None:
    server.echo.stream_error = "unexpected shape for input 'x': Expected [-1,3]"
    (found,) = await answers(kind, server, [SHORT])
    assert isinstance(found, Unknown)
    assert found.details == server.echo.stream_error


@both
async def test_inputs_that_cannot_be_sent_end_the_stream_after_the_answers_before_them(
    kind: str, server: FakeServer
) -> None:
    got: list[InferResult | ClientError] = []
    with pytest.raises(InputError, match="input 'x'"):
        await answers(kind, server, [ROW, ["text"], ROW], got)
    assert said(got) == [ROW.tolist()]


@both
async def test_what_the_callers_own_iterable_raises_reaches_the_caller(kind: str, server: FakeServer) -> None:
    def broken() -> Iterator[Any]:
        yield ROW
        raise LookupError("no more rows")

    with pytest.raises(LookupError, match="no more rows"):
        await answers(kind, server, broken())


@both
async def test_a_stream_that_cannot_be_had_raises_its_status_and_is_not_tried_again(kind: str) -> None:
    with FakeServer([grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE]) as server:
        server.add_model("line", x=("FP32", [-1, -1]))
        with pytest.raises(Unavailable, match="scripted"):
            await answers(kind, server, [ROW])
        assert server.recorder.methods() == ["ModelMetadata", "ModelStreamInfer"]


async def test_a_stream_that_ended_under_a_write_does_not_blame_the_server_for_what_grpc_does_not_know(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        async def __aiter__(self) -> AsyncIterator[Any]:
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, "Internal error from Core")
            yield

        def cancel(self) -> None:
            pass

    async with AsyncClient(server.address) as client:
        monkeypatch.setattr(client._connection._opened(), "stream_stream", lambda *_: lambda *_, **__: Broken())
        with pytest.raises(Unknown, match="the server ended the stream while a request was on its way"):
            async for _ in client.stream_infer("line", [ROW]):
                pass


@both
async def test_the_timeout_is_for_the_whole_stream(kind: str, server: FakeServer) -> None:
    gate = threading.Event()

    def until_told() -> Iterator[Any]:
        yield ROW
        gate.wait(60)

    async def never_ending() -> AsyncIterator[Any]:
        yield ROW
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        await answers(kind, server, until_told() if kind == "sync" else never_ending(), timeout=0.3)
    gate.set()


async def test_the_async_client_takes_inputs_as_they_come(server: FakeServer) -> None:
    async def rows() -> AsyncIterator[Any]:
        for number in range(3):
            yield [[number, 0, 0]]

    async with AsyncClient(server.address) as client:
        found = [answer async for answer in client.stream_infer("line", rows())]
    assert said(found) == [[[number, 0, 0]] for number in range(3)]


@both
async def test_to_leave_the_loop_ends_the_stream(kind: str, server: FakeServer) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield ROW

    if kind == "sync":
        with Client(server.address) as client:
            for answer in client.stream_infer("line", endless()):
                assert isinstance(answer, InferResult)
                break
            assert client.live()
    else:
        async with AsyncClient(server.address) as other:
            async with aclosing(other.stream_infer("line", endless())) as stream:
                assert isinstance(await anext(stream), InferResult)
            assert await other.live()


def test_a_closed_client_streams_nothing(server: FakeServer) -> None:
    client = Client(server.address)
    client.close()
    with pytest.raises(FailedPrecondition, match="after close"):
        client.stream_infer("line", [ROW])


async def test_a_closed_async_client_streams_nothing(server: FakeServer) -> None:
    client = AsyncClient(server.address)
    await client.close()
    with pytest.raises(FailedPrecondition, match="after close"):
        await anext(client.stream_infer("line", [ROW]))
