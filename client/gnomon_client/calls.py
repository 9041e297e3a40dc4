"""The calls of the inference service as values: what to send where, and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from gnomon_client.metadata import ModelMetadata, ServerMetadata, read_model, read_server
from gnomon_client.result import InferResult, read_result
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


def model_infer(request: pb.ModelInferRequest) -> Call[InferResult]:
    """An inference; repeatable, since a model run changes nothing."""
    return Call(f"{_SERVICE}ModelInfer", request, pb.ModelInferResponse, read_result)
