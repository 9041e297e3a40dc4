"""SystemSharedMemory: how clients tell of regions, and ask which there are.

Control keeps the list, since any frontend may get the next request.
"""

from __future__ import annotations

from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import InvalidRequest, NotOffered
from gnomon_server.serving.methods import asking
from gnomon_server.serving.questions import Questions
from gnomon_server.serving.regions import MOST_NAME
from gnomon_server.serving.transport import Call, Methods, Unary
from gnomon_server.wire.plans import RegionRef
from gnomon_server.wire.questions import RegionsWanted, RegisterWanted, Shared, UnregisterWanted

METHODS: Final = ("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister")


class Memory:
    """Asks control."""

    def __init__(self, questions: Questions, offered: bool) -> None:
        self._questions = questions
        self._offered = offered

    def methods(self, service: str) -> Methods:
        """Returns the method table."""
        if not self._offered:
            return {f"{service}/{name}": Unary(_not_offered) for name in METHODS}
        status, register, unregister = METHODS
        return {
            f"{service}/{status}": asking(pb.SystemSharedMemoryStatusRequest, self._status),
            f"{service}/{register}": asking(pb.SystemSharedMemoryRegisterRequest, self._register),
            f"{service}/{unregister}": asking(pb.SystemSharedMemoryUnregisterRequest, self._unregister),
        }

    def _status(self, call: Call, request: pb.SystemSharedMemoryStatusRequest) -> None:
        self._questions.ask(call, RegionsWanted(request.name), _regions)

    def _register(self, call: Call, request: pb.SystemSharedMemoryRegisterRequest) -> None:
        for field, text in (("name", request.name), ("key", request.key)):
            if not 0 < len(text) <= MOST_NAME:
                raise InvalidRequest(f"{field}: expected 1 to {MOST_NAME} characters, received {len(text)}")
        if not request.byte_size:
            raise InvalidRequest("byte_size: expected > 0, received 0")
        region = RegionRef(request.name, request.key, request.offset, request.byte_size)
        self._questions.ask(call, RegisterWanted(region), lambda _: pb.SystemSharedMemoryRegisterResponse())

    def _unregister(self, call: Call, request: pb.SystemSharedMemoryUnregisterRequest) -> None:
        wanted = UnregisterWanted(request.name)
        self._questions.ask(call, wanted, lambda _: pb.SystemSharedMemoryUnregisterResponse())


def _regions(given: Shared) -> pb.SystemSharedMemoryStatusResponse:
    response = pb.SystemSharedMemoryStatusResponse()
    for region in given.regions:
        status = response.regions[region.name]
        status.name, status.key = region.name, region.key
        status.offset, status.byte_size = region.offset, region.byte_size
    return response


def _not_offered(_: Call) -> None:
    raise NotOffered("shared memory is not offered: expected the setting shared_memory = true")
