"""grpc.health.v1: whether the server, or a service of it, can answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from grpc_health.v1 import health_pb2

from gnomon_server.errors import NotFound
from gnomon_server.models.requests import quoted
from gnomon_server.serving.methods import parsed
from gnomon_server.serving.transport import Call, Methods, Stream, Unary

NAME: Final = "grpc.health.v1.Health"


class Health:
    """Answers Check and Watch for the server as a whole ("") and for its services by name."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = {"", *services}
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def set(self, serving: bool) -> None:
        """Says whether the server can answer; wakes every watcher if that is new."""
        if serving != self._serving:
            self._serving = serving
            self._wake()

    def end(self) -> None:
        """Says NOT_SERVING for good and ends every watch, since a watcher would hold up the drain."""
        self._serving = False
        self._ended = True
        self._wake()

    def methods(self) -> Methods:
        """Returns the method table."""
        return {f"{NAME}/Check": Unary(self._check), f"{NAME}/Watch": Stream(self._watch)}

    def _check(self, call: Call) -> None:
        service = _service(call.message)
        if service not in self._services:
            raise NotFound(f"service {quoted(service)} not found")
        call.answer(self._response(service))

    async def _watch(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            service, last = _service(message), b""
            while True:
                changed, response = self._changed, self._response(service)
                if response != last:
                    yield response
                    last = response
                if self._ended:
                    return
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _response(self, service: str) -> bytes:
        status = "SERVICE_UNKNOWN"
        if service in self._services:
            status = "SERVING" if self._serving else "NOT_SERVING"
        response: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
        return response


def _service(message: bytes) -> str:
    service: str = parsed(health_pb2.HealthCheckRequest, message).service
    return service
