"""Calls as any gRPC client makes them: plain channels and protobuf messages, nothing of gnomon's own client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array

SERVICE = "/inference.GRPCInferenceService/"
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def channel(address: str) -> grpc.Channel:
    """A channel of its own connection, without message limits."""
    return grpc.insecure_channel(address, options=(*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)))


def sent(target: grpc.Channel, path: str, message: bytes, seconds: float = 30) -> bytes:
    """Sends bytes to any method and returns the answer's."""
    unary: Any = target.unary_unary(path)
    answer: bytes = unary(message, timeout=seconds)
    return answer


def infer(target: grpc.Channel, request: pb.ModelInferRequest, seconds: float = 30) -> pb.ModelInferResponse:
    """Calls ModelInfer."""
    return pb.ModelInferResponse.FromString(sent(target, SERVICE + "ModelInfer", request.SerializeToString(), seconds))


def started(target: grpc.Channel, request: pb.ModelInferRequest, seconds: float = 60) -> Any:
    """Begins ModelInfer and returns its grpc future."""
    unary: Any = target.unary_unary(SERVICE + "ModelInfer", response_deserializer=pb.ModelInferResponse.FromString)
    return unary.future(request.SerializeToString(), timeout=seconds)


def request(model: str, inputs: Mapping[str, Array], **fields: Any) -> pb.ModelInferRequest:
    """A request with raw contents; `fields` are further fields of the message."""
    made = pb.ModelInferRequest(model_name=model, **fields)
    for name, array in inputs.items():
        made.inputs.add(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
        made.raw_input_contents.append(tensors.to_raw(array))
    return made


def typed(model: str, inputs: Mapping[str, Array], **fields: Any) -> pb.ModelInferRequest:
    """A request with typed contents."""
    made = pb.ModelInferRequest(model_name=model, **fields)
    for name, array in inputs.items():
        tensor = made.inputs.add(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
        tensor.contents.SetInParent()
        tensors.to_contents(array, tensor.contents)
    return made


def tensor(name: str, datatype: str, shape: Sequence[int], **fields: Any) -> pb.ModelInferRequest.InferInputTensor:
    """One input as it is said, right or wrong."""
    return pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape, **fields)


def output(response: pb.ModelInferResponse, index: int = 0) -> Array:
    """One output of a response, in whichever form it came."""
    described = response.outputs[index]
    if response.raw_output_contents:
        return tensors.from_raw(described.datatype, tuple(described.shape), response.raw_output_contents[index])
    return tensors.from_contents(described.datatype, tuple(described.shape), described.contents)
