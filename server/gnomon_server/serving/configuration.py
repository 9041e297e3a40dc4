"""Configurations: a version as a config.pbtxt of Triton would describe it, as far as that is true of gnomon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_server.models.servable import Servable
from gnomon_server.models.signature import TensorSpec
from gnomon_server.settings import ModelSettings

PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"


def config(servable: Servable, versions: Iterable[int], frontends: int) -> pb.ModelConfig:
    """Returns the configuration of a version.

    `versions` are those that can answer, and `frontends` is how many processes have each of them loaded.
    """
    signature, settings = servable.signature, servable.settings
    batched = signature.batched
    made = pb.ModelConfig(
        name=servable.model,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=sorted(versions))),
        max_batch_size=settings.max_batch if batched else 0,
        input=[
            pb.ModelInput(
                name=spec.name,
                data_type=_data_type(spec),
                # What may be left out has no rows of the batch.
                dims=_dims(spec, batched and not spec.optional),
                optional=spec.optional,
            )
            for spec in signature.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, batched))
            for spec in signature.outputs
        ],
        instance_group=[pb.ModelInstanceGroup(name=servable.model, count=frontends, kind=_kind(settings))],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )
    if servable.coalescable:
        made.dynamic_batching.CopyFrom(_batching(settings))
    return made


def _dims(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    """Returns a tensor's shape, without the dimension that max_batch_size stands for."""
    return spec.shape[1:] if batched else spec.shape


def _data_type(spec: TensorSpec) -> pb.DataType.ValueType:
    # Triton's one name that differs from the protocol's.
    name = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return pb.DataType.Value(f"TYPE_{name}")


def _kind(settings: ModelSettings) -> pb.ModelInstanceGroup.Kind.ValueType:
    cpu = settings.session.providers[:1] == ("CPUExecutionProvider",)
    return pb.ModelInstanceGroup.KIND_CPU if cpu else pb.ModelInstanceGroup.KIND_GPU


def _batching(settings: ModelSettings) -> pb.ModelDynamicBatching:
    queue = pb.ModelQueuePolicy(
        timeout_action=pb.ModelQueuePolicy.REJECT,
        # The request's parameter `timeout`.
        allow_timeout_override=True,
        max_queue_size=settings.max_queue,
    )
    delay = round(settings.max_queue_delay * 1e6)
    return pb.ModelDynamicBatching(max_queue_delay_microseconds=delay, default_queue_policy=queue)
