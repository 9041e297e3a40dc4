"""The answer to an inference request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gnomon_client.errors import Internal
from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array, TensorError

Parameter = bool | int | float | str


@dataclass(frozen=True, eq=False)
class InferResult(Mapping[str, Array]):
    """The outputs of one request by name, in the server's order, and who answered.

    Numbers and booleans are read-only arrays. A BYTES output is an object array of str where every element is UTF-8
    text, else of bytes.
    """

    model: str
    # The version that produced the outputs, as the server named it.
    version: str
    # The request's id, echoed.
    id: str
    outputs: Mapping[str, Array]
    parameters: Mapping[str, Parameter]

    # By identity: arrays have no single truth to compare mappings by.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Array:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)


def read_result(response: pb.ModelInferResponse) -> InferResult:
    """Returns the response as a value; raises Internal if its contents do not fit what it says of them."""
    where = f"model '{response.model_name}' version '{response.model_version}'"
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        message = f"{where}: expected {len(response.outputs)} raw_output_contents, one per output, received {len(raw)}"
        raise Internal(message)
    outputs = {tensor.name: _array(tensor, raw[i] if raw else None, where) for i, tensor in enumerate(response.outputs)}
    return InferResult(
        model=response.model_name,
        version=response.model_version,
        id=response.id,
        outputs=MappingProxyType(outputs),
        parameters=MappingProxyType({name: _parameter(value) for name, value in response.parameters.items()}),
    )


def _array(tensor: pb.ModelInferResponse.InferOutputTensor, raw: bytes | None, where: str) -> Array:
    shape = tuple(tensor.shape)
    try:
        if raw is None:
            array = tensors.from_contents(tensor.datatype, shape, tensor.contents)
            array.flags.writeable = False
        else:
            array = tensors.from_raw(tensor.datatype, shape, raw)
    except TensorError as error:
        raise Internal(f"{where}: output '{tensor.name}': {error}") from None
    return _text(array) if tensor.datatype == "BYTES" else array


def _text(array: Array) -> Array:
    try:
        return tensors.to_text(array)
    except TensorError:
        return array


def _parameter(value: pb.InferParameter) -> Parameter:
    field = value.WhichOneof("parameter_choice")
    result: Parameter = getattr(value, field) if field else ""
    return result
