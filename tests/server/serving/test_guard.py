"""What a handler did not foresee is told with a trace and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from server.serving.fakes import HeldCall

from gnomon_server.errors import Internal, NotFound
from gnomon_server.serving.guard import Guard
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.transport import Call, Methods, Stream, Unary
from gnomon_server.telemetry.sampling import Sampler

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def raising(call: Call) -> None:
    """Fails as the message says."""
    if call.message == b"refuse":
        raise NotFound("nobody")
    if call.message == b"break":
        raise ZeroDivisionError("secret")
    call.answer(call.message)


async def streaming(call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for message in messages:
        call.message = message
        raising(call)
        yield message


async def said(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@pytest.fixture
def methods() -> Methods:
    observation = Observation(Sampler(1.0, parent_based=True, seed=1))
    return Guard(observation).methods({"a/Unary": Unary(raising), "a/Stream": Stream(streaming)})


def test_a_call_that_breaks_its_handler_is_internal_with_its_trace(
    methods: Methods, caplog: pytest.LogCaptureFixture
) -> None:
    method = methods["a/Unary"]
    assert isinstance(method, Unary)
    with pytest.raises(Internal, match=rf"^internal error; trace {TRACE}$"):
        method.handle(HeldCall(b"break", TRACED))
    assert TRACE in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text
    with pytest.raises(NotFound, match=r"^nobody$"):
        method.handle(HeldCall(b"refuse", TRACED))
    good = HeldCall(b"good", TRACED)
    method.handle(good)
    assert good.result == b"good"


async def test_a_stream_that_breaks_its_handler_is_internal_with_its_trace_after_what_it_said(
    methods: Methods, caplog: pytest.LogCaptureFixture
) -> None:
    method = methods["a/Stream"]
    assert isinstance(method, Stream)
    answers = method.handle(HeldCall(b"", TRACED), said(b"one"))
    assert [answer async for answer in answers] == [b"one"]
    with pytest.raises(Internal, match=rf"^internal error; trace {TRACE}$"):
        await anext(method.handle(HeldCall(b"", TRACED), said(b"break")))
    assert "ZeroDivisionError: secret" in caplog.text
    with pytest.raises(NotFound, match=r"^nobody$"):
        await anext(method.handle(HeldCall(b"", TRACED), said(b"refuse")))
