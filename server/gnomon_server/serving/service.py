"""The methods of inference.GRPCInferenceService, as a table for a transport."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Final, Protocol

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import NotFound, NotReady
from gnomon_server.models.signature import TensorSpec
from gnomon_server.serving.configuration import PLATFORM, config
from gnomon_server.serving.methods import asking, unary
from gnomon_server.serving.placing import Accept
from gnomon_server.serving.questions import Questions
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.statistics import statistics
from gnomon_server.serving.transport import Call, Methods, Unary
from gnomon_server.settings import Settings
from gnomon_server.wire.questions import CountsWanted

NAME: Final = "inference.GRPCInferenceService"
# Names of the Open Inference Protocol's extensions that really work here.
EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "parameters", "statistics")


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
    """The six methods of the Open Inference Protocol, and what Triton adds about single models."""

    def __init__(self, state: State, accept: Accept, questions: Questions, settings: Settings) -> None:
        self._state = state
        self._accept = accept
        self._questions = questions
        self._settings = settings

    def methods(self) -> Methods:
        """Returns the method table."""
        return {
            f"{NAME}/ServerLive": unary(pb.ServerLiveRequest, lambda _: pb.ServerLiveResponse(live=True)),
            f"{NAME}/ServerReady": unary(pb.ServerReadyRequest, self._server_ready),
            f"{NAME}/ServerMetadata": unary(pb.ServerMetadataRequest, self._server_metadata),
            f"{NAME}/ModelReady": unary(pb.ModelReadyRequest, self._model_ready),
            f"{NAME}/ModelMetadata": unary(pb.ModelMetadataRequest, self._model_metadata),
            f"{NAME}/ModelInfer": Unary(self._model_infer),
            f"{NAME}/ModelConfig": unary(pb.ModelConfigRequest, self._model_config),
            f"{NAME}/ModelStatistics": asking(pb.ModelStatisticsRequest, self._model_statistics),
        }

    def _server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._state.ready)

    def _server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        optional = {
            "model_repository": self._settings.repository_control,
            "system_shared_memory": self._settings.shared_memory,
        }
        extensions = [*EXTENSIONS, *(name for name, offered in optional.items() if offered)]
        return pb.ServerMetadataResponse(name="gnomon", version=installed_version("gnomon"), extensions=extensions)

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
            inputs=[_tensor(spec) for spec in servable.signature.required],
            outputs=[_tensor(spec) for spec in servable.signature.outputs],
        )

    def _model_infer(self, call: Call) -> None:
        self._accept(call, self._state.table)

    def _model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        route = self._state.table.model(request.name)
        servable = route.resolve(request.version)
        return pb.ModelConfigResponse(config=config(servable, route.versions, self._settings.workers))

    def _model_statistics(self, call: Call, request: pb.ModelStatisticsRequest) -> None:
        versions = self._versions(request.name, request.version)
        self._questions.ask(call, CountsWanted(), lambda given: statistics(versions, given.inferences))

    def _versions(self, model: str, version: str) -> list[tuple[str, int]]:
        """Returns the versions that can answer: all of them without a name, those of one model, or one."""
        table = self._state.table
        routes = [table.model(model)] if model else [route for _, route in sorted(table.models.items())]
        if model and (version or not routes[0].versions):
            return [(model, routes[0].resolve(version).version)]
        return [(route.name, number) for route in routes for number in sorted(route.versions)]


def _tensor(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)
