"""What a server says of itself and of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from gnomon_protos import inference_pb2 as pb


@dataclass(frozen=True)
class ServerMetadata:
    """A server's name, version and the extensions of the protocol that it offers."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output as the model declares it."""

    name: str
    # FP32, INT64, BYTES, ...: the Open Inference Protocol's names.
    datatype: str
    # -1 is a free dimension.
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """A model's tensors, in the model's own order."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def read_server(message: pb.ServerMetadataResponse) -> ServerMetadata:
    """Returns the message as a value."""
    return ServerMetadata(message.name, message.version, tuple(message.extensions))


def read_model(message: pb.ModelMetadataResponse) -> ModelMetadata:
    """Returns the message as a value."""
    return ModelMetadata(
        name=message.name,
        versions=tuple(message.versions),
        platform=message.platform,
        inputs=tuple(map(_tensor, message.inputs)),
        outputs=tuple(map(_tensor, message.outputs)),
        properties=MappingProxyType(dict(message.properties)),
    )


def _tensor(message: pb.ModelMetadataResponse.TensorMetadata) -> TensorMetadata:
    return TensorMetadata(message.name, message.datatype, tuple(message.shape))
