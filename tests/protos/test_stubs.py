"""The committed stubs are fresh, and the field numbers are those of the Open Inference Protocol and of Triton."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

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
# What tritonclient's own stubs say, printed by a process of its own: both register the package "inference".
TRITON = """
import json
from tritonclient.grpc import model_config_pb2, service_pb2
print(json.dumps([file.DESCRIPTOR.serialized_pb.hex() for file in (model_config_pb2, service_pb2)]))
"""
# Settings of Triton's schedulers and backends that gnomon does not have.
LEFT_OUT = {
    "ModelConfig": {"optimization", "sequence_batching", "ensemble_scheduling", "cc_model_filenames"}
    | {"model_operations", "batch_input", "batch_output", "model_repository_agents", "model_metrics"},
    "ModelInstanceGroup": {"rate_limiter", "secondary_devices"},
}
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
    if field.enum_type is not None:
        return field.enum_type.full_name
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


@pytest.fixture(scope="module")
def triton() -> Any:
    ran = subprocess.run([sys.executable, "-c", TRITON], capture_output=True, text=True, check=True)
    pool = descriptor_pool.DescriptorPool()
    for serialized in json.loads(ran.stdout):
        pool.AddSerializedFile(bytes.fromhex(serialized))
    return pool


def all_messages(outer: Any) -> list[Descriptor]:
    inner = [message for message in outer.nested_types if not message.GetOptions().map_entry]
    return [outer, *(found for message in inner for found in all_messages(message))]


def values(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def test_every_message_and_enum_is_tritons_but_for_what_is_left_out(triton: Any) -> None:
    for top in pb.DESCRIPTOR.message_types_by_name.values():
        for message in all_messages(top):
            theirs = triton.FindMessageTypeByName(message.full_name)
            expected = {field.number: shown(field) for field in theirs.fields}
            ours = {field.number: shown(field) for field in message.fields}
            if message.name == "ModelMetadataResponse":
                assert ours.pop(6) == "properties: map<string, string>"
            left_out = {theirs.fields_by_number[number].name for number in expected.keys() - ours.keys()}
            assert left_out == LEFT_OUT.get(message.name, set())
            assert ours == {number: text for number, text in expected.items() if number in ours}, message.full_name
            for enum in message.enum_types:
                assert values(enum) == values(triton.FindEnumTypeByName(enum.full_name))
    assert values(pb.DESCRIPTOR.enum_types_by_name["DataType"]) == values(
        triton.FindEnumTypeByName("inference.DataType")
    )


def test_the_methods_are_tritons(triton: Any) -> None:
    def told(service: Any) -> list[tuple[object, ...]]:
        return sorted(
            (m.name, m.input_type.full_name, m.output_type.full_name, m.client_streaming, m.server_streaming)
            for m in service.methods
        )

    ours = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert told(ours) == told(triton.FindServiceByName("inference.GRPCInferenceService"))
    assert [method.name for method in ours.methods][: len(METHODS)] == list(METHODS)


def test_a_parameter_holds_one_value() -> None:
    (choice,) = pb.InferParameter.DESCRIPTOR.oneofs
    assert choice.name == "parameter_choice"
    assert [field.number for field in choice.fields] == [1, 2, 3, 4, 5]
