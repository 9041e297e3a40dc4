"""Inference requests and responses: checked against a signature, to arrays and back.

The checks run in a fixed order, first failure wins: parameters, input names, each input in request order (datatype,
shape, form of data, size, content), outputs. Texts name the model, then the tensor, then what was
expected and received.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

from google.protobuf.message import DecodeError

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array, TensorError
from gnomon_server.errors import LISTED, InvalidRequest, NotOffered, listed, quoted
from gnomon_server.models import parameters, weight
from gnomon_server.models.signature import Signature, TensorSpec

# Texts of one input: each becomes an object of its own, and more would keep everybody else waiting for seconds.
MOST_TEXTS: Final = 1 << 20


def parse(message: bytes) -> pb.ModelInferRequest:
    """Returns a serialised request; raises InvalidRequest if it is none, or none that should be read."""
    weight.check(message)
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        size = len(message)
        text = f"ModelInferRequest: expected a protobuf message, received {size} bytes that are none"
        raise InvalidRequest(text) from None


def decode_inputs(
    request: pb.ModelInferRequest, signature: Signature, model: str, version: int, max_rows: int = 0
) -> dict[str, Array]:
    """Returns the inputs by name, text as str; raises InvalidRequest or NotOffered with the client's mistake.

    `max_rows` is the largest batch, 0 for any.
    """
    try:
        if request.parameters:
            parameters.check(request)
        _check_names(request, signature)
        inputs = _arrays(request, signature)
        if signature.batched and signature.required:
            _check_batch(inputs, signature, max_rows)
    except (InvalidRequest, NotOffered) as error:
        raise type(error)(f"model '{model}' version '{version}': {error}") from None
    return inputs


def rows_of(inputs: Mapping[str, Array], signature: Signature) -> int:
    """Returns the rows of a request's batch; 1 where the model has none."""
    return len(inputs[signature.required[0].name]) if signature.batched and signature.required else 1


def output_names(request: pb.ModelInferRequest, signature: Signature, model: str, version: int) -> Sequence[str]:
    """Returns the outputs that the request asks for, in its order; raises InvalidRequest or NotOffered."""
    if not request.outputs:
        return signature.output_names
    names: list[str] = []
    where = f"model '{model}' version '{version}'"
    for output in request.outputs:
        shown = f"{where}: output {quoted(output.name)}"
        if output.name not in signature.output_names:
            known = listed(signature.output_names)
            raise InvalidRequest(f"{shown}: expected one of {known}, received {quoted(output.name)}")
        if output.name in names:
            raise InvalidRequest(f"{shown}: expected once, received 2 times")
        for parameter in output.parameters:
            if parameter == "classification":
                raise NotOffered(f"{shown}: classification is not offered")
            if parameter.startswith("shared_memory_"):
                raise NotOffered(f"{shown}: shared memory is not offered")
        names.append(output.name)
    return names


def encode_response(
    request: pb.ModelInferRequest,
    model: str,
    version: int,
    names: Sequence[str],
    outputs: Sequence[Array],
    explanation: Mapping[str, int | str] | None = None,
) -> bytes:
    """Returns the serialised response: raw contents, or typed ones where the request sent and asked for them.

    `explanation` becomes its parameters.
    """
    response = pb.ModelInferResponse(model_name=model, model_version=str(version), id=request.id)
    for name, value in (explanation or {}).items():
        # Clients of KServe and MLServer read nothing but booleans, int64 and text.
        parameter = response.parameters[name]
        if isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.string_param = value
    carried = all(tensors.datatype_of(output) in tensors.CONTENTS for output in outputs)
    typed = carried and parameters.wants_typed(request)
    for name, output in zip(names, outputs, strict=True):
        tensor = response.outputs.add(name=name, datatype=tensors.datatype_of(output), shape=output.shape)
        if typed:
            tensor.contents.SetInParent()
            tensors.to_contents(output, tensor.contents)
        else:
            response.raw_output_contents.append(tensors.to_raw(output))
    return response.SerializeToString()


def decode_outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    """Returns the outputs of a response by name, text as str; raises TensorError if it is not well formed."""
    outputs: dict[str, Array] = {}
    for index, tensor in enumerate(response.outputs):
        if response.raw_output_contents:
            array = tensors.from_raw(tensor.datatype, tuple(tensor.shape), response.raw_output_contents[index])
        else:
            array = tensors.from_contents(tensor.datatype, tuple(tensor.shape), tensor.contents)
        outputs[tensor.name] = tensors.to_text(array) if tensor.datatype == "BYTES" else array
    return outputs


def _check_names(request: pb.ModelInferRequest, signature: Signature) -> None:
    names = Counter(tensor.name for tensor in request.inputs)
    for name, count in names.items():
        if name not in signature.input_specs:
            known = listed([spec.name for spec in signature.inputs])
            raise InvalidRequest(f"input {quoted(name)}: expected one of {known}, received {quoted(name)}")
        if count > 1:
            raise InvalidRequest(f"input {quoted(name)}: expected once, received {count} times")
    expected = [spec.name for spec in signature.required]
    missing = [name for name in expected if name not in names]
    if missing:
        also = f"; missing are {listed(missing)}" if len(expected) > LISTED else ""
        raise InvalidRequest(f"expected inputs {listed(expected)}, received {listed(list(names))}{also}")
    raw = len(request.raw_input_contents)
    if raw and raw != len(names):
        raise InvalidRequest(f"expected {len(names)} raw_input_contents, one per input, received {raw}")


def _arrays(request: pb.ModelInferRequest, signature: Signature) -> dict[str, Array]:
    raw = request.raw_input_contents
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        spec = signature.input_specs[tensor.name]
        shape = _checked_shape(tensor, spec)
        try:
            if raw:
                if tensor.HasField("contents"):
                    raise TensorError("expected no contents beside raw_input_contents")
                array = tensors.from_raw(spec.datatype, shape, raw[index])
            elif tensor.HasField("contents"):
                array = tensors.from_contents(spec.datatype, shape, tensor.contents)
            else:
                raise TensorError("expected raw_input_contents or contents, received neither")
            inputs[spec.name] = tensors.to_text(array) if spec.datatype == "BYTES" else array
        except TensorError as error:
            raise InvalidRequest(f"input {spec.name!a}: {error}") from None
    return inputs


def _checked_shape(tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec) -> tuple[int, ...]:
    for parameter in tensor.parameters:
        if parameter.startswith("shared_memory_"):
            raise NotOffered(f"input {spec.name!a}: shared memory is not offered")
    if tensor.datatype != spec.datatype:
        received = tensor.datatype if tensor.datatype in tensors.DATATYPES else quoted(tensor.datatype)
        raise InvalidRequest(f"input {spec.name!a}: expected datatype {spec.datatype}, received {received}")
    shape = tuple(tensor.shape)
    if not spec.accepts(shape):
        given = " with every dimension given" if any(dim < 0 for dim in shape) else ""
        shown = str(list(shape[:16])) if len(shape) <= 16 else f"{len(shape)} dimensions"
        raise InvalidRequest(f"input {spec.name!a}: expected {spec.expected}{given}, received {shown}")
    if spec.datatype == "BYTES" and (texts := prod(shape)) > MOST_TEXTS:
        raise InvalidRequest(f"input {spec.name!a}: expected at most {MOST_TEXTS} BYTES elements, received {texts}")
    return shape


def _check_batch(inputs: Mapping[str, Array], signature: Signature, max_rows: int) -> None:
    sizes = {name: len(array) for name, array in inputs.items() if not signature.input_specs[name].optional}
    (first, size), *others = sizes.items()
    if max_rows and size > max_rows:
        raise InvalidRequest(f"input {first!a}: expected batch <= {max_rows}, received {size}")
    for name, other in others:
        if other != size:
            raise InvalidRequest(f"input {name!a}: expected batch {size} as in {first!a}, received {other}")
