"""grpc.health.v1: whether the server, or a service of it, can answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from gnomon_server.errors import InvalidRequest, NotFound
from gnomon_server.models.requests import quoted
from gnomon_server.serving.transport import Call, Methods, Stream, Unary

NAME: Final = "grpc.health.v1.Health"


class Health:
    """Answers Check and Watch for the server as a whole ("") and for its services by name."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._changed = asyncio.Event()

    def set(self, serving: bool) -> None:
        """Says whether the server can answer; wakes every watcher if that is new."""
        if serving != self._serving:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    def methods(self) -> Methods:
        """Returns the method table."""
        return {f"{NAME}/Check": Unary(self._check), f"{NAME}/Watch": Stream(self._watch)}

    def _check(self, call: Call) -> None:
        service = _service(call.message)
        if service not in self._services:
            raise NotFound(f"service {quoted(service)} not found")
        call.answer(self._response())

    async def _watch(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            if _service(message) not in self._services:
                unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                yield health_pb2.HealthCheckResponse(status=unknown).SerializeToString()
                await asyncio.Event().wait()
            while True:
                changed = self._changed
                yield self._response()
                await changed.wait()

    def _response(self) -> bytes:
        status = health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING
        response: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
        return response


def _service(message: bytes) -> str:
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError:
        size = len(message)
        raise InvalidRequest(
            f"HealthCheckRequest: expected a protobuf message, received {size} bytes that are none"
        ) from None
    return service
