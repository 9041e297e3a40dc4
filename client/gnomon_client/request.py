"""The inference request as it goes over the wire: always raw contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gnomon_client.errors import InputError
from gnomon_client.inputs import arrays_of
from gnomon_client.metadata import ModelMetadata
from gnomon_client.result import Parameter
from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import TensorError

if TYPE_CHECKING:
    from gnomon_client.inputs import Inputs


def infer_request(
    model: ModelMetadata,
    inputs: Inputs,
    version: str = "",
    outputs: Sequence[str] | None = None,
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> pb.ModelInferRequest:
    """Returns the request for a model of this metadata; raises InputError naming what cannot be sent."""
    request = pb.ModelInferRequest(model_name=model.name, model_version=version, id=request_id)
    for name, value in (parameters or {}).items():
        _set_parameter(request.parameters[name], name, value)
    if isinstance(outputs, str):
        raise InputError(f"model '{model.name}': expected outputs as a list of names, received the text {outputs!r}")
    for name in outputs or ():
        request.outputs.add(name=name)
    for spec, array in arrays_of(inputs, model):
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        try:
            request.raw_input_contents.append(tensors.to_raw(array))
        except TensorError as error:
            raise InputError(f"model '{model.name}': input '{spec.name}': {error}") from None
    return request


def _set_parameter(message: pb.InferParameter, name: str, value: Parameter) -> None:
    if isinstance(value, bool):
        message.bool_param = value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        message.int64_param = value
    elif isinstance(value, int) and 0 <= value < 1 << 64:
        message.uint64_param = value
    elif isinstance(value, float):
        message.double_param = value
    elif isinstance(value, str):
        message.string_param = value
    else:
        shown = f"{value} (more than 64 bits)" if isinstance(value, int) else type(value).__name__
        raise InputError(f"parameter '{name}': expected a bool, int, float or str, received {shown}")
