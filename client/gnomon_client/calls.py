"""The calls of the inference service as values: what to send where, and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from gnomon_client.configuration import ModelConfig, read_config
from gnomon_client.metadata import ModelMetadata, ServerMetadata, read_model, read_server
from gnomon_client.repository import RepositoryEntry, read_index
from gnomon_client.result import InferResult, read_result
from gnomon_client.statistics import ModelStatistics, read_statistics
from gnomon_protos import inference_pb2 as pb

Result = TypeVar("Result")

_SERVICE: Final = "/inference.GRPCInferenceService/"


@dataclass(frozen=True)
class Call(Generic[Result]):
    """One unary RPC."""

    path: str
    request: Message
    answer: type[Message]
    read: Callable[[Any], Result]
    # Whether a second attempt is harmless where the first one may have been carried out.
    repeatable: bool = True


def server_live() -> Call[bool]:
    """Whether the server process is up."""
    return Call(f"{_SERVICE}ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, lambda answer: answer.live)


def server_ready() -> Call[bool]:
    """Whether every model can answer."""
    return Call(f"{_SERVICE}ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, lambda answer: answer.ready)


def model_ready(model: str, version: str) -> Call[bool]:
    """Whether a model, or one version of it, can answer."""
    request = pb.ModelReadyRequest(name=model, version=version)
    return Call(f"{_SERVICE}ModelReady", request, pb.ModelReadyResponse, lambda answer: answer.ready)


def server_metadata() -> Call[ServerMetadata]:
    """The server's name, version and extensions."""
    return Call(f"{_SERVICE}ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, read_server)


def model_metadata(model: str, version: str) -> Call[ModelMetadata]:
    """A model's tensors."""
    request = pb.ModelMetadataRequest(name=model, version=version)
    return Call(f"{_SERVICE}ModelMetadata", request, pb.ModelMetadataResponse, read_model)


def model_config(model: str, version: str) -> Call[ModelConfig]:
    """How a model is run."""
    request = pb.ModelConfigRequest(name=model, version=version)
    return Call(f"{_SERVICE}ModelConfig", request, pb.ModelConfigResponse, read_config)


def model_statistics(model: str, version: str) -> Call[tuple[ModelStatistics, ...]]:
    """What versions have done; without names, all of them."""
    request = pb.ModelStatisticsRequest(name=model, version=version)
    return Call(f"{_SERVICE}ModelStatistics", request, pb.ModelStatisticsResponse, read_statistics)


def repository_index(ready: bool) -> Call[tuple[RepositoryEntry, ...]]:
    """The versions in the repository, or those alone that can answer."""
    request = pb.RepositoryIndexRequest(ready=ready)
    return Call(f"{_SERVICE}RepositoryIndex", request, pb.RepositoryIndexResponse, read_index)


def load_model(model: str) -> Call[None]:
    """A load; repeatable, since what is loaded already stays so."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    return Call(f"{_SERVICE}RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, lambda _: None)


def unload_model(model: str) -> Call[None]:
    """An unload; repeatable likewise."""
    request = pb.RepositoryModelUnloadRequest(model_name=model)
    return Call(f"{_SERVICE}RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse, lambda _: None)


def model_infer(request: pb.ModelInferRequest) -> Call[InferResult]:
    """An inference; repeatable, since a model run changes nothing."""
    return Call(f"{_SERVICE}ModelInfer", request, pb.ModelInferResponse, read_result)
