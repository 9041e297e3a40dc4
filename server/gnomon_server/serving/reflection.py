"""gRPC server reflection: tools ask the server for its protos instead of needing the files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from grpc_reflection.v1alpha import reflection, reflection_pb2

from gnomon_server.serving.methods import parsed
from gnomon_server.serving.transport import Call, Methods, Stream

NAME: Final = "grpc.reflection.v1alpha.ServerReflection"


def methods(services: tuple[str, ...]) -> Methods:
    """Returns the method table that describes `services`, itself among them."""
    servicer: Any = reflection.aio.ReflectionServicer((*services, NAME))

    async def requests(messages: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        async for message in messages:
            yield parsed(reflection_pb2.ServerReflectionRequest, message)

    async def info(_: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for response in servicer.ServerReflectionInfo(requests(messages), None):
            yield response.SerializeToString()

    return {f"{NAME}/ServerReflectionInfo": Stream(info)}
