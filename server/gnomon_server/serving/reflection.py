"""gRPC server reflection: tools ask the server for its protos instead of needing the files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from gnomon_server.errors import InvalidRequest
from gnomon_server.serving.transport import Call, Methods, Stream

NAME: Final = "grpc.reflection.v1alpha.ServerReflection"


def methods(services: tuple[str, ...]) -> Methods:
    """Returns the method table that describes `services`, itself among them."""
    servicer: Any = reflection.aio.ReflectionServicer((*services, NAME))

    async def requests(messages: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        async for message in messages:
            try:
                yield reflection_pb2.ServerReflectionRequest.FromString(message)
            except DecodeError:
                raise InvalidRequest("ServerReflectionRequest: expected a protobuf message") from None

    async def info(_: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for response in servicer.ServerReflectionInfo(requests(messages), None):
            yield response.SerializeToString()

    return {f"{NAME}/ServerReflectionInfo": Stream(info)}
