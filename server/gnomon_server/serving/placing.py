"""Placing: requests whose inputs lie in shared memory, or whose outputs go there.

Such a request is made into the one that would have carried the inputs itself, and only its answer is taken apart
again. Everything between, with the mirror among it, knows nothing of shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Final, NamedTuple

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import Exhausted, GnomonError, InvalidRequest, quoted
from gnomon_server.models import requests
from gnomon_server.serving.regions import Region, Regions
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.transport import Call

REGION: Final = "shared_memory_region"
SIZE: Final = "shared_memory_byte_size"
OFFSET: Final = "shared_memory_offset"
# What a message that speaks of shared memory has somewhere.
MARK: Final = b"shared_memory_"

# Inferences.accept, or what stands before it.
Accept = Callable[[Call, RouteTable], None]
Parameters = MutableMapping[str, pb.InferParameter]


class Place(NamedTuple):
    """A part of a region."""

    region: Region
    offset: int
    size: int


class Placing:
    """Accepts calls before the inferences do; for those without shared memory, it costs a search for a word."""

    def __init__(self, accept: Accept, regions: Regions, most_bytes: int) -> None:
        """Takes the most bytes of inputs that one request may have in shared memory."""
        self._accept = accept
        self._regions = regions
        self._most_bytes = most_bytes

    def accept(self, call: Call, table: RouteTable) -> None:
        """Has a call accepted that has its inputs in itself; raises GnomonError, also for places that cannot be."""
        self._accept(call if MARK not in call.message else self._prepared(call), table)

    def _prepared(self, call: Call) -> Call:
        request = requests.parse(call.message)
        given = any(_speaks_of_memory(tensor.parameters) for tensor in request.inputs)
        try:
            places = self._outputs(request)
            if given:
                self._inputs(request)
        except GnomonError as error:
            raise type(error)(f"model {quoted(request.model_name)}: {error}") from None
        if not given and not places:
            return call
        if places:
            # Placed outputs are raw, and the two forms never mix.
            request.parameters.pop("binary_data_output", None)
        call.message = request.SerializeToString()
        return PlacedCall(call, places) if places else call

    def _inputs(self, request: pb.ModelInferRequest) -> None:
        """Puts what lies in regions where raw contents belong."""
        raw, taken, left = request.raw_input_contents, 0, self._most_bytes
        contents: list[bytes] = []
        for tensor in request.inputs:
            where = f"input {quoted(tensor.name)}"
            place = self._place(tensor.parameters, where)
            if tensor.HasField("contents"):
                raise InvalidRequest(f"{where}: expected no contents beside shared memory")
            if place is not None:
                left -= place.size
                if left < 0:
                    raise Exhausted(f"{where}: expected at most {self._most_bytes} bytes of inputs, received more")
                contents.append(place.region.read(place.offset, place.size))
            elif taken < len(raw):
                contents.append(raw[taken])
                taken += 1
            else:
                raise InvalidRequest(f"{where}: expected raw_input_contents or shared memory, received neither")
        if taken < len(raw):
            expected = f"expected {taken} raw_input_contents, one per input that is not in shared memory"
            raise InvalidRequest(f"{expected}, received {len(raw)}")
        request.raw_input_contents[:] = contents

    def _outputs(self, request: pb.ModelInferRequest) -> dict[str, Place]:
        places = {}
        for output in request.outputs:
            place = self._place(output.parameters, f"output {quoted(output.name)}")
            if place is not None:
                places[output.name] = place
        return places

    def _place(self, parameters: Parameters, where: str) -> Place | None:
        """Takes a place out of a tensor's parameters, if they name one."""
        if not _speaks_of_memory(parameters):
            return None
        name = _value(parameters, REGION, "string_param", where)
        size = _value(parameters, SIZE, "int64_param", where)
        offset = _value(parameters, OFFSET, "int64_param", where) if OFFSET in parameters else 0
        try:
            return Place(self._regions.get(str(name)), int(offset), int(size))
        except GnomonError as error:
            raise type(error)(f"{where}: {error}") from None


class PlacedCall(Call):
    """A call whose outputs go to shared memory; all else is the call that it stands for."""

    def __init__(self, call: Call, places: Mapping[str, Place]) -> None:
        super().__init__(call.method, call.message, call.start, call.start_ns)
        self._call = call
        self._places = places

    @property
    def note(self) -> object:
        """The call's own."""
        return self._call.note

    @note.setter
    def note(self, note: object) -> None:
        self._call.note = note

    @property
    def trace(self) -> object:
        """The call's own."""
        return self._call.trace

    @trace.setter
    def trace(self, trace: object) -> None:
        self._call.trace = trace

    @property
    def ended(self) -> bool:  # type: ignore[override]
        """Whether the call has ended."""
        return self._call.ended

    def metadata(self, key: str) -> str | None:
        """Returns the call's metadata."""
        return self._call.metadata(key)

    def peer(self) -> str:
        """Returns the call's peer."""
        return self._call.peer()

    def time_remaining(self) -> float | None:
        """Returns the seconds until the call's deadline."""
        return self._call.time_remaining()

    def answer(self, message: bytes) -> None:
        """Puts the outputs where they belong and answers with the rest, or fails if they do not fit."""
        if self._call.ended:
            # The client may use the memory for something else by now.
            return
        try:
            rest = _placed(pb.ModelInferResponse.FromString(message), self._places)
        except GnomonError as error:
            self._call.fail(error)
        else:
            self._call.answer(rest.SerializeToString())

    def fail(self, error: GnomonError) -> None:
        """Fails the call."""
        self._call.fail(error)


def _placed(response: pb.ModelInferResponse, places: Mapping[str, Place]) -> pb.ModelInferResponse:
    raw = []
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        place = places.get(output.name)
        if place is None:
            raw.append(data)
            continue
        where = f"model '{response.model_name}' version '{response.model_version}': output '{output.name}'"
        if len(data) > place.size:
            raise InvalidRequest(f"{where}: expected {SIZE} of at least {len(data)}, received {place.size}")
        try:
            place.region.write(place.offset, data)
        except InvalidRequest as error:
            raise InvalidRequest(f"{where}: {error}") from None
        output.parameters[REGION].string_param = place.region.ref.name
        output.parameters[SIZE].int64_param = len(data)
        if place.offset:
            output.parameters[OFFSET].int64_param = place.offset
    response.raw_output_contents[:] = raw
    return response


def _speaks_of_memory(parameters: Mapping[str, pb.InferParameter]) -> bool:
    return any(name in parameters for name in (REGION, SIZE, OFFSET))


def _value(parameters: Parameters, name: str, expected: str, where: str) -> str | int:
    """Takes a parameter out; raises InvalidRequest for another type, or a number below 0."""
    if name not in parameters:
        raise InvalidRequest(f"{where}: expected parameter '{name}' beside the others of shared memory, received none")
    field = parameters[name].WhichOneof("parameter_choice")
    if field != expected:
        raise InvalidRequest(f"{where}: parameter '{name}': expected {expected}, received {field or 'nothing'}")
    value: str | int = getattr(parameters.pop(name), expected)
    if isinstance(value, int) and value < 0:
        raise InvalidRequest(f"{where}: parameter '{name}': expected >= 0, received {value}")
    return value
