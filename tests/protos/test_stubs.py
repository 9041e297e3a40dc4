"""The committed stubs are fresh, and the field numbers are those of the Open Inference Protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gnomon_protos import inference_pb2 as pb

GENERATE = Path(__file__).parents[2] / "protos" / "generate.py"

PARAMETERS = "map<string, InferParameter>"
TENSOR = {1: "name: string", 2: "datatype: string", 3: "repeated shape: int64", 4: f"parameters: {PARAMETERS}"}

# Messages of the protocol by name, written out by hand: field numbers are what clients in the field rely on.
MESSAGES: dict[str, dict[int, str]] = {
    "ServerLiveRequest": {},
    "ServerReadyRequest": {},
    "ServerMetadataRequest": {},
    "ServerLiveResponse": {1: "live: bool"},
    "ServerReadyResponse": {1: "ready: bool"},
    "ModelReadyRequest": {1: "name: string", 2: "version: string"},
    "ModelReadyResponse": {1: "ready: bool"},
    "ServerMetadataResponse": {1: "name: string", 2: "version: string", 3: "repeated extensions: string"},
    "ModelMetadataRequest": {1: "name: string", 2: "version: string"},
    "ModelMetadataResponse": {
        1: "name: string",
        2: "repeated versions: string",
        3: "platform: string",
        4: "repeated inputs: TensorMetadata",
        5: "repeated outputs: TensorMetadata",
        6: "properties: map<string, string>",
    },
    "ModelMetadataResponse.TensorMetadata": {1: "name: string", 2: "datatype: string", 3: "repeated shape: int64"},
    "ModelInferRequest": {
        1: "model_name: string",
        2: "model_version: string",
        3: "id: string",
        4: f"parameters: {PARAMETERS}",
        5: "repeated inputs: InferInputTensor",
        6: "repeated outputs: InferRequestedOutputTensor",
        7: "repeated raw_input_contents: bytes",
    },
    "ModelInferRequest.InferInputTensor": {**TENSOR, 5: "contents: InferTensorContents"},
    "ModelInferRequest.InferRequestedOutputTensor": {1: "name: string", 2: f"parameters: {PARAMETERS}"},
    "ModelInferResponse": {
        1: "model_name: string",
        2: "model_version: string",
        3: "id: string",
        4: f"parameters: {PARAMETERS}",
        5: "repeated outputs: InferOutputTensor",
        6: "repeated raw_output_contents: bytes",
    },
    "ModelInferResponse.InferOutputTensor": {**TENSOR, 5: "contents: InferTensorContents"},
    "InferParameter": {
        1: "bool_param: bool",
        2: "int64_param: int64",
        3: "string_param: string",
        4: "double_param: double",
        5: "uint64_param: uint64",
    },
    "InferTensorContents": {
        1: "repeated bool_contents: bool",
        2: "repeated int_contents: int32",
        3: "repeated int64_contents: int64",
        4: "repeated uint_contents: uint32",
        5: "repeated uint64_contents: uint64",
        6: "repeated fp32_contents: float",
        7: "repeated fp64_contents: double",
        8: "repeated bytes_contents: bytes",
    },
}
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}


def type_of(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is None:
        return TYPES[field.type]
    if message.GetOptions().map_entry:
        return f"map<{type_of(message.fields_by_name['key'])}, {type_of(message.fields_by_name['value'])}>"
    return message.name


def shown(field: FieldDescriptor) -> str:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    return f"{'repeated ' if field.is_repeated and not is_map else ''}{field.name}: {type_of(field)}"


def descriptor_of(name: str) -> Descriptor:
    outer, _, inner = name.partition(".")
    message = pb.DESCRIPTOR.message_types_by_name[outer]
    return message.nested_types_by_name[inner] if inner else message


def test_the_committed_stubs_are_what_the_proto_files_give() -> None:
    finished = subprocess.run([sys.executable, GENERATE, "--check"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_has_the_protocols_fields(name: str) -> None:
    assert {field.number: shown(field) for field in descriptor_of(name).fields} == MESSAGES[name]


def test_no_message_beside_the_protocols_is_in_its_package() -> None:
    assert set(pb.DESCRIPTOR.message_types_by_name) == {name for name in MESSAGES if "." not in name}
    assert pb.DESCRIPTOR.package == "inference"


def test_a_parameter_holds_one_value() -> None:
    (choice,) = pb.InferParameter.DESCRIPTOR.oneofs
    assert choice.name == "parameter_choice"
    assert [field.number for field in choice.fields] == [1, 2, 3, 4, 5]


def test_the_service_has_the_protocols_methods() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert [method.name for method in service.methods] == list(METHODS)
    for method in service.methods:
        names = (method.input_type.name, method.output_type.name)
        assert names == (f"{method.name}Request", f"{method.name}Response")
        assert (method.client_streaming, method.server_streaming) == (False, False)
