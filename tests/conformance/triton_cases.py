"""Requests to gnomon and to Triton, good and bad, and why some are answered in another way here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from raw_calls import SERVICE, request, tensor, typed

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array

METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
ROW = np.array([[1.5, -2.0, 3.0]], np.float32)
X: dict[str, Array] = {"x": ROW}
TEXTS = np.array([["", "a", "grün"]], object)
TEXT = b"\x01\x00\x00\x00a"


@dataclass(frozen=True)
class Case:
    """One call."""

    method: str
    message: bytes

    @property
    def path(self) -> str:
        """The full name with a leading slash."""
        return SERVICE + self.method

    @property
    def streaming(self) -> bool:
        """Whether it is a stream, on which the message is the only one."""
        return bool(METHODS[self.method].client_streaming)

    def read(self, answer: bytes) -> dict[str, Any]:
        """Returns an answer as JSON has it, without what names the server, or depends on how it runs models."""
        kind = METHODS[self.method].output_type
        message: Message = GetMessageClass(kind).FromString(answer)
        fields: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
        match self.method:
            case "ServerMetadata" | "ModelMetadata":
                return {name: fields[name] for name in ("inputs", "outputs", "versions") if name in fields}
            case "ModelConfig":
                return {"name": fields["config"]["name"]}
            case "ModelStatistics":
                return {"models": sorted([one["name"], one["version"]] for one in fields["model_stats"])}
            case "RepositoryIndex":
                return {"models": sorted([one["name"], one["version"], one["state"]] for one in fields["models"])}
            case "ModelStreamInfer" if "error_message" in fields:
                # The text is the server's own.
                return {"error": True, "id": fields["infer_response"].get("id", "")}
        return fields


def _infer(made: pb.ModelInferRequest) -> Case:
    return Case("ModelInfer", made.SerializeToString())


def _said(model: str, inputs: list[Any], raw: list[bytes] | None = None, **fields: Any) -> Case:
    return _infer(pb.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=raw or [], **fields))


def _x(datatype: str, shape: list[int], raw: bytes | None = None, model: str = "line", **contents: Any) -> Case:
    extra = {"contents": pb.InferTensorContents(**contents)} if contents else {}
    return _said(model, [tensor("x", datatype, shape, **extra)], None if raw is None else [raw])


def _with(inputs: Mapping[str, Array] = X, model: str = "line", **fields: Any) -> Case:
    return _infer(request(model, inputs, **fields))


def _parameters(**values: Any) -> dict[str, pb.InferParameter]:
    return {name: pb.InferParameter(**value) for name, value in values.items()}


def _asked(*names: str, **values: Any) -> list[pb.ModelInferRequest.InferRequestedOutputTensor]:
    made = pb.ModelInferRequest.InferRequestedOutputTensor
    return [made(name=name, parameters=_parameters(**values)) for name in names]


GOOD = {
    "raw contents": _with(),
    "raw contents of two rows": _with({"x": np.tile(ROW, (2, 1))}),
    "raw contents of no rows": _with({"x": ROW[:0]}),
    "typed contents": _infer(typed("line", X)),
    "texts": _with({"x": TEXTS}, "texts"),
    "typed texts": _infer(typed("texts", {"x": TEXTS})),
    "truth values": _with({"x": np.array([[True, False, True]])}, "truths"),
    "typed truth values": _infer(typed("truths", {"x": np.array([[True, False, True]])})),
    "small integers": _with({"x": np.array([[-128, 0, 127]], np.int8)}, "small"),
    "typed small integers": _infer(typed("small", {"x": np.array([[-128, 0, 127]], np.int8)})),
    "half precision": _with({"x": ROW.astype(np.float16)}, "halves"),
    "two inputs": _with({"a": ROW, "b": ROW}, "sum"),
    "two inputs in the other order": _with({"b": ROW, "a": 2 * ROW}, "sum"),
    "an id": _with(id="grün"),
    "a version": _with(model_version="1"),
    "one output": _with(model="scores", outputs=_asked("probabilities")),
    "outputs in the other order": _with(model="scores", outputs=_asked("probabilities", "label")),
    "all outputs": _with(model="scores"),
    "a custom parameter": _with(parameters=_parameters(mine={"string_param": "yes"})),
    "a priority": _with(parameters=_parameters(priority={"uint64_param": 1})),
    "a timeout": _with(parameters=_parameters(timeout={"int64_param": 10_000_000})),
    "the server is live": Case("ServerLive", b""),
    "the server is ready": Case("ServerReady", b""),
    "what the server is": Case("ServerMetadata", b""),
    "a model is ready": Case("ModelReady", pb.ModelReadyRequest(name="line").SerializeToString()),
    "a version is ready": Case("ModelReady", pb.ModelReadyRequest(name="line", version="1").SerializeToString()),
    "a stream": Case("ModelStreamInfer", _with(id="one").message),
    "a stream that asks for its end": Case(
        "ModelStreamInfer",
        _with(parameters=_parameters(triton_enable_empty_final_response={"bool_param": True})).message,
    ),
    "a model's configuration": Case("ModelConfig", pb.ModelConfigRequest(name="line").SerializeToString()),
    "a model's statistics": Case("ModelStatistics", pb.ModelStatisticsRequest(name="line").SerializeToString()),
    "everyone's statistics": Case("ModelStatistics", b""),
    "the repository": Case("RepositoryIndex", b""),
    "what of it is ready": Case("RepositoryIndex", pb.RepositoryIndexRequest(ready=True).SerializeToString()),
    "what a model takes": Case("ModelMetadata", pb.ModelMetadataRequest(name="scores").SerializeToString()),
}
BAD = {
    "empty model name": _with(model=""),
    "unknown model": _with(model="nobody"),
    "unknown version": _with(model_version="99"),
    "version that begins as a number": _with(model_version="1abc"),
    "version that is no number": _with(model_version="abc"),
    "negative version": _with(model_version="-1"),
    "inputs missing": _with(model="sum"),
    "no inputs": _said("line", []),
    "unknown input": _with({"zzz": ROW}),
    "unknown input beside the right one": _with({"x": ROW, "zzz": ROW}),
    "other datatype": _x("INT64", [1, 3], bytes(24)),
    "no such datatype": _x("FLOAT", [1, 3], bytes(12)),
    "wrong shape": _x("FP32", [2, 5], bytes(40)),
    "wrong rank": _x("FP32", [3], bytes(12)),
    "negative dimension": _x("FP32", [-1, 3], bytes(12)),
    "dimension of 2^62": _x("FP32", [2**62, 3], bytes(12)),
    "bytes that do not fill the shape": _x("FP32", [2, 3], bytes(20)),
    "more bytes than the shape": _x("FP32", [1, 3], bytes(24)),
    "elements that do not fill the shape": _x("FP32", [2, 3], fp32_contents=[1, 2]),
    "too few texts": _x("BYTES", [1, 3], TEXT * 2, "texts"),
    "text cut off": _x("BYTES", [1, 3], TEXT * 2 + b"\x0a\x00\x00\x00four", "texts"),
    "length of a text cut off": _x("BYTES", [1, 3], TEXT * 2 + b"\x0a\x00", "texts"),
    "text that is no UTF-8": _x("BYTES", [1, 3], TEXT + b"\x01\x00\x00\x00\xff" + TEXT, "texts"),
    "truth value of 2": _x("BOOL", [1, 3], b"\x00\x01\x02", "truths"),
    "no data": _said("line", [tensor("x", "FP32", [1, 3])]),
    "raw and typed contents": _x("FP32", [1, 3], bytes(12), fp32_contents=[1, 2, 3]),
    "too many raw contents": _said("line", [tensor("x", "FP32", [1, 3])], [bytes(12)] * 2),
    "too few raw contents": _said("sum", [tensor("a", "FP32", [1, 3]), tensor("b", "FP32", [1, 3])], [bytes(12)]),
    "wrong typed field": _x("FP32", [1, 3], int64_contents=[1, 2, 3]),
    "two typed fields": _x("FP32", [1, 3], fp32_contents=[1, 2, 3], int64_contents=[1]),
    "typed half precision": _x("FP16", [1, 3], model="halves", fp32_contents=[1, 2, 3]),
    "value out of range": _x("INT8", [1, 3], model="small", int_contents=[1, 300, 3]),
    "unknown output": _with(model="scores", outputs=_asked("nope")),
    "output twice": _with(outputs=_asked("y", "y")),
    "input twice": _said("line", [tensor("x", "FP32", [1, 3])] * 2, [bytes(12)] * 2),
    "timeout as text": _with(parameters=_parameters(timeout={"string_param": "1"})),
    "negative timeout": _with(parameters=_parameters(timeout={"int64_param": -1})),
    "priority as text": _with(parameters=_parameters(priority={"string_param": "high"})),
    "negative priority": _with(parameters=_parameters(priority={"int64_param": -1})),
    "a custom parameter of uint64": _with(parameters=_parameters(mine={"uint64_param": 1})),
    "a parameter without a value": _with(parameters=_parameters(mine={})),
    "unknown parameter of Triton": _with(parameters=_parameters(triton_x={"bool_param": True})),
    "sequence on a model without any": _with(parameters=_parameters(sequence_id={"int64_param": 7})),
    "sequence_id as a truth value": _with(parameters=_parameters(sequence_id={"bool_param": True})),
    "input in shared memory": _said(
        "line",
        [tensor("x", "FP32", [1, 3], parameters=_parameters(shared_memory_region={"string_param": "r"}))],
    ),
    "output in shared memory": _with(outputs=_asked("y", shared_memory_region={"string_param": "r"})),
    "classification": _with(model="scores", outputs=_asked("probabilities", classification={"int64_param": 1})),
    "classification of none": _with(model="scores", outputs=_asked("probabilities", classification={"int64_param": 0})),
    "readiness of an unknown model": Case("ModelReady", pb.ModelReadyRequest(name="nobody").SerializeToString()),
    "readiness of an unknown version": Case(
        "ModelReady", pb.ModelReadyRequest(name="line", version="99").SerializeToString()
    ),
    "readiness of no version": Case("ModelReady", pb.ModelReadyRequest(name="line", version="x").SerializeToString()),
    "readiness of no name": Case("ModelReady", b""),
    "metadata of an unknown model": Case("ModelMetadata", pb.ModelMetadataRequest(name="nobody").SerializeToString()),
    "metadata of an unknown version": Case(
        "ModelMetadata", pb.ModelMetadataRequest(name="line", version="99").SerializeToString()
    ),
    "unknown model on a stream": Case("ModelStreamInfer", _with(model="nobody", id="two").message),
    "wrong shape on a stream": Case("ModelStreamInfer", _x("FP32", [2, 5], bytes(40)).message),
    "bytes that are no message on a stream": Case("ModelStreamInfer", b"\xff\xff\xff"),
    "configuration of an unknown model": Case("ModelConfig", pb.ModelConfigRequest(name="x").SerializeToString()),
    "statistics of an unknown model": Case("ModelStatistics", pb.ModelStatisticsRequest(name="x").SerializeToString()),
    "another repository": Case("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x").SerializeToString()),
    "loading that is not allowed": Case(
        "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="line").SerializeToString()
    ),
    "unloading that is not allowed": Case(
        "RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="line").SerializeToString()
    ),
    "shared memory of the system": Case("SystemSharedMemoryStatus", b""),
    "shared memory of CUDA": Case("CudaSharedMemoryStatus", b""),
    "settings of traces": Case("TraceSetting", b""),
    "settings of logs": Case("LogSettings", b""),
    "bytes that are no message": Case("ModelInfer", b"\xff\xff\xff"),
    "unknown fields": Case("ModelInfer", _with().message + b"\xa2\x06\x03abc"),
}
CASES = GOOD | BAD
# Why gnomon answers otherwise; docs/triton.md shows them.
DIFFERENCES = {
    "outputs in the other order": "outputs come in the order in which they were asked for",
    "empty model name": "a field that was forgotten is a mistake in the request",
    "version that begins as a number": "`1abc` is no version; Triton reads it as 1",
    "text that is no UTF-8": "the model takes text, and what is no text would be changed on its way",
    "truth value of 2": "a byte that is neither 0 nor 1 is no truth value, and what a model makes of it is undefined",
    "too many raw contents": "one tensor too many or one input too few: the client's numbers may be in the wrong place",
    "value out of range": "Triton cuts 300 to 44 for an INT8",
    "output twice": "one of the two is likely to be a mistake",
    "negative timeout": "no time can be waited for less than nothing",
    "a custom parameter of uint64": "all five types of the protocol are parameters",
    "input in shared memory": "off unless `shared_memory = true`, and gnomon says so first",
    "output in shared memory": "off unless `shared_memory = true`, and gnomon says so first",
    "classification": "not offered; the client has the numbers, and their order is its own to find",
    "classification of none": "not offered, whatever its value",
    "readiness of no name": "a field that was forgotten is a mistake in the request",
    "bytes that are no message": "the message is the client's",
    "bytes that are no message on a stream": "the client hears of it, and may go on; Triton ends the stream with OK",
    "statistics of an unknown model": "as every other method says it of an unknown model",
    "loading that is not allowed": "a configuration forbids it, and trying again does not help",
    "unloading that is not allowed": "a configuration forbids it, and trying again does not help",
    "shared memory of the system": "off unless `shared_memory = true`",
    "shared memory of CUDA": "not offered",
    "settings of traces": "not offered; OpenTelemetry's standard variables say what is traced",
    "settings of logs": "not offered",
}
