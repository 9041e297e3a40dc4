"""grpc.health.v1 for models: each is a service by its name, and watchers hear of every change."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from server.serving.fakes import HeldCall

from gnomon_server.errors import NotFound
from gnomon_server.serving.health import NAME, Health
from gnomon_server.serving.transport import Stream, Unary


def asked(service: str) -> bytes:
    message: bytes = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    return message


def told(answer: Any) -> str:
    status = health_pb2.HealthCheckResponse.FromString(answer).status
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    return name


def check(health: Health, service: str) -> str:
    method = health.methods()[f"{NAME}/Check"]
    assert isinstance(method, Unary)
    call = HeldCall(asked(service))
    method.handle(call)
    return told(call.result)


async def once(message: list[bytes]) -> AsyncIterator[bytes]:
    yield message.pop()


def watch(health: Health, service: str) -> AsyncIterator[bytes]:
    method = health.methods()[f"{NAME}/Watch"]
    assert isinstance(method, Stream)
    return method.handle(HeldCall(), once([asked(service)]))


async def test_each_model_stands_for_itself() -> None:
    health = Health(("a.Service",))
    health.set(False, {"good": True, "broken": False})
    assert [check(health, name) for name in ("", "a.Service", "good", "broken")] == [
        *("NOT_SERVING", "NOT_SERVING", "SERVING", "NOT_SERVING")
    ]
    with pytest.raises(NotFound, match="service 'other' not found"):
        check(health, "other")


async def test_a_model_that_is_gone_is_not_known_any_more() -> None:
    health = Health(())
    health.set(True, {"model": True})
    health.set(True, {})
    with pytest.raises(NotFound):
        check(health, "model")


async def test_a_service_goes_before_a_model_of_the_same_name() -> None:
    health = Health(("a.Service",))
    health.set(False, {"a.Service": True})
    assert check(health, "a.Service") == "NOT_SERVING"


async def test_a_watcher_hears_of_a_model_from_before_it_exists_until_the_server_ends() -> None:
    health = Health(())
    heard = watch(health, "model")
    assert told(await anext(heard)) == "SERVICE_UNKNOWN"
    for state, expected in (({"model": False}, "NOT_SERVING"), ({"model": True}, "SERVING"), ({}, "SERVICE_UNKNOWN")):
        following = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        # Of another model's change, it hears nothing.
        health.set(True, {**state, "other": True})
        assert told(await following) == expected
    health.set(True, {"model": True})
    assert told(await anext(heard)) == "SERVING"
    health.end()
    assert told(await anext(heard)) == "NOT_SERVING"
    assert [told(answer) async for answer in heard] == []


async def test_a_watch_keeps_little_of_a_name_however_long_it_is() -> None:
    health = Health(())
    tracemalloc.start()
    try:
        watches = [watch(health, "x" * 1_000_000 + str(number)) for number in range(20)]
        assert {told(await anext(heard)) for heard in watches} == {"SERVICE_UNKNOWN"}
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
