"""The methods of inference.GRPCInferenceService, as a table for a transport."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed_version
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import InvalidRequest, NotFound, NotReady
from gnomon_server.models.signature import TensorSpec
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.transport import Call, Methods, Unary

NAME: Final = "inference.GRPCInferenceService"
# Names of the Open Inference Protocol's extensions that really work here.
EXTENSIONS: Final = ("binary_tensor_data", "parameters")
PLATFORM: Final = "onnxruntime_onnx"

Request = TypeVar("Request", bound=Message)


class State(Protocol):
    """What the service sees of its frontend."""

    @property
    def table(self) -> RouteTable:
        """The routes of this moment."""

    @property
    def ready(self) -> bool:
        """Whether every model answers and the server is not shutting down."""

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down."""


class Service:
    """The six methods of the Open Inference Protocol."""

    def __init__(self, state: State, inferences: Inferences) -> None:
        self._state = state
        self._inferences = inferences

    def methods(self) -> Methods:
        """Returns the method table."""
        return {
            f"{NAME}/ServerLive": _unary(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            f"{NAME}/ServerReady": _unary(pb.ServerReadyRequest, self._server_ready),
            f"{NAME}/ServerMetadata": _unary(pb.ServerMetadataRequest, _server_metadata),
            f"{NAME}/ModelReady": _unary(pb.ModelReadyRequest, self._model_ready),
            f"{NAME}/ModelMetadata": _unary(pb.ModelMetadataRequest, self._model_metadata),
            f"{NAME}/ModelInfer": Unary(self._model_infer),
        }

    def _server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._state.ready)

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._state.table.model(request.name).resolve(request.version)
        except (NotFound, NotReady):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._state.draining)

    def _model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        route = self._state.table.model(request.name)
        servable = route.resolve(request.version)
        return pb.ModelMetadataResponse(
            name=route.name,
            versions=[str(version) for version in sorted(route.versions)],
            platform=PLATFORM,
            inputs=[_tensor(spec) for spec in servable.signature.inputs],
            outputs=[_tensor(spec) for spec in servable.signature.outputs],
        )

    def _model_infer(self, call: Call) -> None:
        self._inferences.accept(call, self._state.table)


def _unary(kind: type[Request], answer: Callable[[Request], Message]) -> Unary:
    def handle(call: Call) -> None:
        try:
            request = kind.FromString(call.message)
        except DecodeError:
            size, name = len(call.message), kind.DESCRIPTOR.name
            raise InvalidRequest(f"{name}: expected a protobuf message, received {size} bytes that are none") from None
        call.answer(answer(request).SerializeToString())

    return Unary(handle)


def _server_metadata(_: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name="gnomon", version=installed_version("gnomon"), extensions=EXTENSIONS)


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
