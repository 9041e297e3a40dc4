"""grpc.health.v1: whether the server, a service of it, or a model can answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Final

from grpc_health.v1 import health_pb2

from gnomon_server.errors import NotFound, quoted
from gnomon_server.serving.methods import parsed
from gnomon_server.serving.transport import Call, Methods, Stream, Unary

NAME: Final = "grpc.health.v1.Health"
# Characters; no folder, and so no model, has a longer name.
MOST_NAME: Final = 256


class Health:
    """Answers Check and Watch for the server as a whole (""), for its services, and for each model by its name."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = dict.fromkeys(("", *services), False)
        # A service goes before a model of the same name.
        self._serving: Mapping[str, bool] = self._services
        self._ended = False
        self._changed = asyncio.Event()

    def set(self, serving: bool, models: Mapping[str, bool]) -> None:
        """Says whether the server, and each model, can answer; wakes every watcher if that is new."""
        everything = {**models, **dict.fromkeys(self._services, serving)}
        if everything != self._serving:
            self._serving = everything
            self._wake()

    def end(self) -> None:
        """Says NOT_SERVING for good and ends every watch, since a watcher would hold up the drain."""
        self._serving = dict.fromkeys(self._serving, False)
        self._ended = True
        self._wake()

    def methods(self) -> Methods:
        """Returns the method table."""
        return {f"{NAME}/Check": Unary(self._check), f"{NAME}/Watch": Stream(self._watch)}

    def _check(self, call: Call) -> None:
        service = _service(call.message)
        if service not in self._serving:
            raise NotFound(f"service {quoted(service)} not found")
        call.answer(self._response(service))

    async def _watch(self, _: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            # Of a longer name, the beginning is as unknown; a watch may last for days and must not hold megabytes.
            service, last = _service(message)[:MOST_NAME], b""
            del message
            while True:
                # Before the answer is taken: what changes meanwhile is told in the next round.
                changed, response, ended = self._changed, self._response(service), self._ended
                if response != last:
                    yield response
                    last = response
                if ended:
                    return
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _response(self, service: str) -> bytes:
        status = "SERVICE_UNKNOWN"
        if service in self._serving:
            status = "SERVING" if self._serving[service] else "NOT_SERVING"
        response: bytes = health_pb2.HealthCheckResponse(status=status).SerializeToString()
        return response


def _service(message: bytes) -> str:
    service: str = parsed(health_pb2.HealthCheckRequest, message).service
    return service
