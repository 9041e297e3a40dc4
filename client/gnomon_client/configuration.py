"""How a server runs a model: what would stand in its config.pbtxt."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon_client.metadata import TensorMetadata
from gnomon_protos import inference_pb2 as pb


@dataclass(frozen=True)
class DynamicBatching:
    """Requests that arrive together run as one batch."""

    # Seconds that a request may wait for others.
    max_delay: float
    # Requests that may wait; 0 where the server names no bound.
    max_waiting: int


@dataclass(frozen=True)
class ModelConfig:
    """A version's configuration."""

    name: str
    platform: str
    backend: str
    # Rows of a batch; 0 for a model without a batch dimension.
    max_batch_size: int
    # Shapes are without the batch dimension, if the model has one.
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    # None: each request runs by itself.
    batching: DynamicBatching | None


def read_config(message: pb.ModelConfigResponse) -> ModelConfig:
    """Returns the message as a value."""
    config = message.config
    batching = config.dynamic_batching
    return ModelConfig(
        name=config.name,
        platform=config.platform,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        inputs=tuple(map(_tensor, config.input)),
        outputs=tuple(map(_tensor, config.output)),
        batching=DynamicBatching(
            batching.max_queue_delay_microseconds / 1e6, batching.default_queue_policy.max_queue_size
        )
        if config.HasField("dynamic_batching")
        else None,
    )


def _tensor(message: pb.ModelInput | pb.ModelOutput) -> TensorMetadata:
    name = pb.DataType.Name(message.data_type).removeprefix("TYPE_")
    return TensorMetadata(message.name, "BYTES" if name == "STRING" else name, tuple(message.dims))
