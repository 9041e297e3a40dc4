"""What the server answers to right and wrong requests, over a plain channel with the protocol's own messages."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import onnx_models as models
import pytest
from onnx import TensorProto as T
from raw_calls import SERVICE, channel, infer, output, request, sent, started, tensor, typed
from servers import ServerProcess, eventually

from gnomon_client import Client, ClientError, Retries
from gnomon_client.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
)
from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NOT_OFFERED = grpc.StatusCode.UNIMPLEMENTED
ECHOES = {
    "BOOL": T.BOOL,
    "UINT8": T.UINT8,
    "UINT16": T.UINT16,
    "UINT32": T.UINT32,
    "UINT64": T.UINT64,
    "INT8": T.INT8,
    "INT16": T.INT16,
    "INT32": T.INT32,
    "INT64": T.INT64,
    "FP16": T.FLOAT16,
    "BF16": T.BFLOAT16,
    "FP32": T.FLOAT,
    "FP64": T.DOUBLE,
    "BYTES": T.STRING,
}
ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
HEAVY = np.full((1, 3), 2.0, np.float32)
LIGHT = np.zeros((1, 3), np.float32)
SLOW_ROUNDS = 60_000
QUEUE = 3
CONFIG = f"""
max_message_bytes = 33554432
[models.scores]
max_rows = 8
[models.slow]
max_queue = {QUEUE}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("statuses") / "models"
    models.write(folder, "line", 1, models.affine(2.0))
    models.write(folder, "sum", 1, models.added())
    models.write(folder, "shifted", 1, models.shifted())
    models.write(folder, "product", 1, models.product("m", "k", "k", "n"))
    models.write(folder, "scores", 1, models.classifier())
    models.write(folder, "raising", 1, models.raising())
    models.write(folder, "slow", 1, models.slow(SLOW_ROUNDS, above=1.5))
    models.write(folder, "wide", 1, models.repeated(3))
    models.write(folder, "zipped", 1, models.zipped(classlabels_strings=["no", "yes"]))
    models.write(folder, "any", 1, models.identity(shape=None))
    models.write(folder, "scalar", 1, models.identity(shape=()))
    for datatype, element in ECHOES.items():
        models.write(folder, f"echo-{datatype}", 1, models.identity(element))
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    state = tmp_path_factory.mktemp("statuses-state")
    with ServerProcess(folder, state, config=CONFIG) as running:
        # A shadow that no frontend holds: it cannot answer when it is named.
        models.write(folder, "line", 2, models.affine(3.0))
        with running.control() as control:
            eventually(lambda: [v.role for v in control.models("line").models[0].versions] == ["primary", "shadow"])
        yield running


@pytest.fixture(scope="module")
def wire(server: ServerProcess) -> Iterator[grpc.Channel]:
    with channel(server.grpc) as opened:
        yield opened


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments)
    error: Any = raised.value
    return error.code(), error.details()


def parameters(**values: Any) -> dict[str, pb.InferParameter]:
    return {name: pb.InferParameter(**value) for name, value in values.items()}


def on_x(datatype: str, shape: list[int], raw: bytes | None = None, **contents: Any) -> dict[str, Any]:
    """The one input x of a request, as it is said."""
    extra = {"contents": pb.InferTensorContents(**contents)} if contents or raw is None else {}
    return {
        "inputs": [tensor("x", datatype, shape, **extra)],
        "raw_input_contents": [] if raw is None else [raw],
    }


@dataclass(frozen=True)
class Mistake:
    """A wrong ModelInfer, its status, and what the text must say in this order."""

    request: pb.ModelInferRequest
    status: grpc.StatusCode
    words: tuple[str, ...]


def wrong(model: str, *words: str, status: grpc.StatusCode = INVALID, **fields: Any) -> Mistake:
    return Mistake(pb.ModelInferRequest(model_name=model, **fields), status, (f"model '{model}' version '1'", *words))


def spoilt(model: str, inputs: dict[str, Array], *words: str, status: grpc.StatusCode = INVALID, **fields: Any) -> Any:
    """A good request with something wrong beside its inputs."""
    made = request(model, inputs, **fields)
    return Mistake(made, status, (f"model '{model}' version '1'", *words))


X = {"x": ROW}
TEXT = b"\x01\x00\x00\x00a"
MISTAKES = {
    "empty name": Mistake(request("", X), INVALID, ("model name is empty",)),
    "unknown model": Mistake(request("nobody", X), NOT_FOUND, ("model 'nobody' not found",)),
    "long unknown model": Mistake(request("n\n" * 99, X), NOT_FOUND, ("model 'n\\nn", "...' not found")),
    "unknown version": Mistake(
        request("line", X, model_version="99"), NOT_FOUND, ("model 'line'", "version '99' not found", "[1]")
    ),
    "version in the shadow": Mistake(
        request("line", X, model_version="2"), NOT_FOUND, ("model 'line'", "version '2' not found", "[1]")
    ),
    "malformed version": Mistake(
        request("line", X, model_version="1abc"),
        INVALID,
        ("model 'line'", "version: expected a positive integer or nothing, received '1abc'"),
    ),
    "no version loaded": Mistake(request("broken", X), NOT_FOUND, ("model 'broken'", "no version is loaded")),
    "inputs missing": spoilt("sum", {"a": ROW}, "expected inputs ['a', 'b'], received ['a']"),
    "no inputs": wrong("line", "expected inputs ['x'], received []"),
    "unknown input": spoilt("line", {"zzz": ROW}, "input 'zzz': expected one of ['x'], received 'zzz'"),
    "other datatype": wrong(
        "line", "input 'x': expected datatype FP32, received INT64", **on_x("INT64", [1, 3], b"0" * 24)
    ),
    "no such datatype": wrong(
        "line", "input 'x': expected datatype FP32, received 'FLOAT'", **on_x("FLOAT", [1, 3], b"0" * 12)
    ),
    "wrong shape": wrong("line", "input 'x': expected shape [-1, 3], received [2, 5]", **on_x("FP32", [2, 5], b"")),
    "wrong rank": wrong("line", "input 'x': expected shape [-1, 3], received [3]", **on_x("FP32", [3], b"")),
    "many dimensions": wrong(
        "line", "input 'x': expected shape [-1, 3], received 99 dimensions", **on_x("FP32", [1] * 99, b"")
    ),
    "negative dimension": wrong(
        "line",
        "input 'x': expected shape [-1, 3] with every dimension given, received [-1, 3]",
        **on_x("FP32", [-1, 3], b""),
    ),
    "negative dimension of any rank": wrong(
        "any", "input 'x': expected a shape with every dimension given, received [2, -1]", **on_x("FP32", [2, -1], b"")
    ),
    "rank of a scalar": wrong("scalar", "input 'x': expected shape [], received [1]", **on_x("FP32", [1], b"")),
    "different batch": spoilt(
        "sum",
        {"a": np.tile(ROW, (2, 1)), "b": np.tile(ROW, (3, 1))},
        "input 'b': expected batch 2 as in 'a', received 3",
    ),
    "batch too great": spoilt("scores", {"x": np.tile(ROW, (9, 1))}, "input 'x': expected batch <= 8, received 9"),
    "bytes do not fill the shape": wrong(
        "line", "input 'x': expected 24 bytes for FP32 [2, 3], received 20", **on_x("FP32", [2, 3], b"0" * 20)
    ),
    "elements do not fill the shape": wrong(
        "line",
        "input 'x': expected 6 elements for FP32 [2, 3], received 2",
        **on_x("FP32", [2, 3], fp32_contents=[1, 2]),
    ),
    "too few texts": wrong(
        "echo-BYTES", "input 'x': expected 3 BYTES elements, received 2", **on_x("BYTES", [1, 3], TEXT * 2)
    ),
    "text cut off": wrong(
        "echo-BYTES",
        "input 'x': BYTES element 2: expected 10 bytes, received 4",
        **on_x("BYTES", [1, 3], TEXT * 2 + b"\x0a\x00\x00\x00four"),
    ),
    "length cut off": wrong(
        "echo-BYTES",
        "input 'x': BYTES element 2: expected a 4-byte length, received 2 bytes",
        **on_x("BYTES", [1, 3], TEXT * 2 + b"\x0a\x00"),
    ),
    "not UTF-8": wrong(
        "echo-BYTES",
        "input 'x': BYTES element 1: expected UTF-8, received byte 0xff at 0",
        **on_x("BYTES", [1, 3], TEXT + b"\x01\x00\x00\x00\xff" + TEXT),
    ),
    "not a truth value": wrong(
        "echo-BOOL", "input 'x': element 2: expected 0 or 1, received 2", **on_x("BOOL", [1, 3], b"\x00\x01\x02")
    ),
    "no data": wrong(
        "line",
        "input 'x': expected raw_input_contents or contents, received neither",
        inputs=[tensor("x", "FP32", [1, 3])],
    ),
    "raw and contents": wrong(
        "line",
        "input 'x': expected no contents beside raw_input_contents",
        **on_x("FP32", [1, 3], b"0" * 12, fp32_contents=[1, 2, 3]),
    ),
    "too many raw entries": wrong(
        "line",
        "expected 1 raw_input_contents, one per input, received 2",
        inputs=[tensor("x", "FP32", [1, 3])],
        raw_input_contents=[b"0" * 12] * 2,
    ),
    "too few raw entries": wrong(
        "sum",
        "expected 2 raw_input_contents, one per input, received 1",
        inputs=[tensor("a", "FP32", [1, 3]), tensor("b", "FP32", [1, 3])],
        raw_input_contents=[b"0" * 12],
    ),
    "wrong typed field": wrong(
        "line",
        "input 'x': expected fp32_contents for FP32, received int64_contents",
        **on_x("FP32", [1, 3], int64_contents=[1, 2, 3]),
    ),
    "two typed fields": wrong(
        "line",
        "input 'x': expected fp32_contents for FP32, received int64_contents",
        **on_x("FP32", [1, 3], fp32_contents=[1, 2, 3], int64_contents=[1]),
    ),
    "typed half precision": wrong(
        "echo-FP16",
        "input 'x': expected raw_input_contents for FP16, received contents",
        **on_x("FP16", [1, 3], fp32_contents=[1, 2, 3]),
    ),
    "typed brain float": wrong(
        "echo-BF16",
        "input 'x': expected raw_input_contents for BF16, received contents",
        **on_x("BF16", [1, 3], fp32_contents=[1, 2, 3]),
    ),
    "optional input of another shape": spoilt(
        "shifted", X | {"by": np.ones(3, np.float32)}, "input 'by': expected shape [-1, 3], received [3]"
    ),
    "only an optional input": spoilt("shifted", {"by": ROW}, "expected inputs ['x'], received ['by']"),
    "value out of range": wrong(
        "echo-INT8",
        "input 'x': element 1: expected INT8, received 300",
        **on_x("INT8", [1, 3], int_contents=[1, 300, 3]),
    ),
    "value out of unsigned range": wrong(
        "echo-UINT16",
        "input 'x': element 0: expected UINT16, received 65536",
        **on_x("UINT16", [1, 3], uint_contents=[65536, 0, 3]),
    ),
    "unknown output": spoilt(
        "scores",
        X,
        "output 'nope': expected one of ['label', 'probabilities'], received 'nope'",
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="nope")],
    ),
    "output twice": spoilt(
        "line",
        X,
        "output 'y': expected once, received 2 times",
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="y")] * 2,
    ),
    "input twice": wrong(
        "line",
        "input 'x': expected once, received 2 times",
        inputs=[tensor("x", "FP32", [1, 3])] * 2,
        raw_input_contents=[b"0" * 12] * 2,
    ),
    "timeout as text": spoilt(
        "line",
        X,
        "parameter 'timeout': expected int64_param, received string_param",
        parameters=parameters(timeout={"string_param": "1"}),
    ),
    "negative priority": spoilt(
        "line",
        X,
        "parameter 'priority': expected >= 0, received -1",
        parameters=parameters(priority={"int64_param": -1}),
    ),
    "binary_data_output as number": spoilt(
        "line",
        X,
        "parameter 'binary_data_output': expected bool_param, received int64_param",
        parameters=parameters(binary_data_output={"int64_param": 0}),
    ),
    "priority as text": spoilt(
        "line",
        X,
        "parameter 'priority': expected uint64_param or int64_param, received string_param",
        parameters=parameters(priority={"string_param": "high"}),
    ),
    "negative timeout": spoilt(
        "line",
        X,
        "parameter 'timeout': expected >= 0, received -5",
        parameters=parameters(timeout={"int64_param": -5}),
    ),
    "parameter without a value": spoilt(
        "line",
        X,
        "parameter 'priority': expected a value, received none",
        parameters=parameters(priority={}),
    ),
    "unknown parameter of gnomon": spoilt(
        "line",
        X,
        "parameter 'gnomon_x': expected one of ['gnomon_explain'], received 'gnomon_x'",
        parameters=parameters(gnomon_x={"bool_param": True}),
    ),
    "explanation as number": spoilt(
        "line",
        X,
        "parameter 'gnomon_explain': expected bool_param, received int64_param",
        parameters=parameters(gnomon_explain={"int64_param": 1}),
    ),
    "final response as text": spoilt(
        "line",
        X,
        "parameter 'triton_enable_empty_final_response': expected bool_param, received string_param",
        parameters=parameters(triton_enable_empty_final_response={"string_param": "yes"}),
    ),
    "unknown parameter of Triton": spoilt(
        "line",
        X,
        "parameter 'triton_x': expected one of ['triton_enable_empty_final_response'], received 'triton_x'",
        parameters=parameters(triton_x={"bool_param": True}),
    ),
    "sequence by a truth value": spoilt(
        "line",
        X,
        "parameter 'sequence_id': expected int64_param or string_param or uint64_param, received bool_param",
        parameters=parameters(sequence_id={"bool_param": True}),
    ),
    "sequence by a long text": spoilt(
        "line",
        X,
        "parameter 'sequence_id': expected at most 128 bytes, received 129",
        parameters=parameters(sequence_id={"string_param": "s" * 129}),
    ),
    "start of a sequence as a number": spoilt(
        "line",
        X,
        "parameter 'sequence_start': expected bool_param, received int64_param",
        parameters=parameters(sequence_start={"int64_param": 1}),
    ),
    "input in shared memory": wrong(
        "line",
        "input 'x': shared memory is not offered",
        status=NOT_OFFERED,
        inputs=[tensor("x", "FP32", [1, 3], parameters=parameters(shared_memory_region={"string_param": "r"}))],
    ),
    "output in shared memory": spoilt(
        "line",
        X,
        "output 'y': shared memory is not offered",
        status=NOT_OFFERED,
        outputs=[
            pb.ModelInferRequest.InferRequestedOutputTensor(
                name="y", parameters=parameters(shared_memory_region={"string_param": "r"})
            )
        ],
    ),
    "classification": spoilt(
        "scores",
        X,
        "output 'probabilities': classification is not offered",
        status=NOT_OFFERED,
        outputs=[
            pb.ModelInferRequest.InferRequestedOutputTensor(
                name="probabilities", parameters=parameters(classification={"int64_param": 1})
            )
        ],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_its_status_and_a_text_that_names_what_was_expected(name: str, wire: grpc.Channel) -> None:
    mistake = MISTAKES[name]
    status, text = refusal(infer, wire, mistake.request)
    assert status == mistake.status, text
    places = [text.find(words) for words in mistake.words]
    assert places == sorted(places), text
    assert -1 not in places, text
    assert text.isascii()
    assert len(text) <= 1024


def test_the_first_mistake_in_the_fixed_order_wins(wire: grpc.Channel) -> None:
    bad = pb.ModelInferRequest(
        model_name="sum",
        parameters=parameters(timeout={"string_param": ""}),
        inputs=[tensor("a", "INT8", [9]), tensor("c", "FP32", [1, 3])],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="nope")],
    )
    assert "parameter 'timeout'" in refusal(infer, wire, bad)[1]
    bad.parameters.clear()
    assert "input 'c': expected one of" in refusal(infer, wire, bad)[1]
    bad.inputs[1].name = "b"
    assert "input 'a': expected datatype" in refusal(infer, wire, bad)[1]
    bad.inputs[0].datatype = "FP32"
    assert "input 'a': expected shape" in refusal(infer, wire, bad)[1]
    bad.inputs[0].shape[:] = [1, 3]
    assert "input 'a': expected raw_input_contents or contents" in refusal(infer, wire, bad)[1]
    bad.raw_input_contents.extend([b"", bytes(12)])
    assert "input 'a': expected 12 bytes" in refusal(infer, wire, bad)[1]
    bad.raw_input_contents[0] = bytes(12)
    assert "output 'nope'" in refusal(infer, wire, bad)[1]
    del bad.outputs[:]
    assert infer(wire, bad).outputs[0].name == "y"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "ModelReady"])
def test_bytes_that_are_no_message_are_the_callers_mistake(method: str, wire: grpc.Channel) -> None:
    assert refusal(sent, wire, SERVICE + method, b"\xff\xff\xff") == (
        INVALID,
        f"{method}Request: expected a protobuf message, received 3 bytes that are none",
    )


@pytest.mark.parametrize("path", [SERVICE + "TraceSetting", SERVICE + "LogSettings", "/other.Service/TraceSetting"])
def test_a_method_that_is_not_offered_is_unimplemented(path: str, wire: grpc.Channel) -> None:
    name = path.rpartition("/")[2]
    assert refusal(sent, wire, path, b"") == (NOT_OFFERED, f"method '{name}' is not offered")


def test_model_ready_says_no_where_other_methods_refuse(wire: grpc.Channel) -> None:
    def ready(name: str, version: str = "") -> bool:
        message = pb.ModelReadyRequest(name=name, version=version).SerializeToString()
        return pb.ModelReadyResponse.FromString(sent(wire, SERVICE + "ModelReady", message)).ready

    assert [ready("line"), ready("line", "1")] == [True, True]
    assert [ready("line", "2"), ready("line", "99"), ready("nobody"), ready("broken")] == [False] * 4
    assert refusal(ready, "line", "abc")[0] == INVALID


def test_metadata_of_what_is_not_there_is_refused(wire: grpc.Channel) -> None:
    def metadata(name: str, version: str = "") -> pb.ModelMetadataResponse:
        message = pb.ModelMetadataRequest(name=name, version=version).SerializeToString()
        return pb.ModelMetadataResponse.FromString(sent(wire, SERVICE + "ModelMetadata", message))

    assert refusal(metadata, "nobody") == (NOT_FOUND, "model 'nobody' not found")
    assert refusal(metadata, "line", "99")[0] == NOT_FOUND
    assert refusal(metadata, "line", "0")[0] == INVALID
    assert refusal(metadata, "")[0] == INVALID
    assert list(metadata("line", "1").versions) == ["1"]
    assert [(spec.name, spec.datatype, list(spec.shape)) for spec in metadata("scalar").inputs] == [("x", "FP32", [])]


def test_a_server_with_a_model_that_cannot_answer_is_live_and_not_ready(wire: grpc.Channel) -> None:
    assert pb.ServerLiveResponse.FromString(sent(wire, SERVICE + "ServerLive", b"")).live
    assert not pb.ServerReadyResponse.FromString(sent(wire, SERVICE + "ServerReady", b"")).ready


def test_a_run_that_fails_is_internal_with_a_trace_and_no_detail(wire: grpc.Channel) -> None:
    status, text = refusal(infer, wire, request("raising", X))
    assert status == grpc.StatusCode.INTERNAL
    assert re.fullmatch(r"model 'raising' version '1': execution failed; trace [0-9a-f]{32}", text)
    assert np.array_equal(output(infer(wire, request("raising", {"x": LIGHT}))), LIGHT)


def values(datatype: str, shape: tuple[int, ...]) -> Array:
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return np.array([f"ü{index}".encode() for index in range(count)], object).reshape(shape)
    dtype = tensors.FIXED[datatype]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.resize(np.array([limits.min, limits.max, 1], dtype), shape)
    return np.resize(np.array([0, 1, 1 if datatype == "BOOL" else 1.5], dtype), shape)


@pytest.mark.parametrize("rows", [2, 0])
@pytest.mark.parametrize("datatype", ECHOES)
def test_raw_contents_of_every_datatype_come_back_as_they_were(datatype: str, rows: int, wire: grpc.Channel) -> None:
    asked = request(f"echo-{datatype}", {"x": values(datatype, (rows, 3))})
    answer = infer(wire, asked)
    assert answer.raw_output_contents == asked.raw_input_contents
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("y", datatype, [rows, 3])]
    assert not answer.outputs[0].HasField("contents")


@pytest.mark.parametrize("rows", [2, 0])
@pytest.mark.parametrize("datatype", tensors.CONTENTS)
def test_typed_contents_of_every_datatype_are_answered_raw_unless_typed_ones_are_wanted(
    datatype: str, rows: int, wire: grpc.Channel
) -> None:
    given = values(datatype, (rows, 3))
    asked = typed(f"echo-{datatype}", {"x": given})
    assert infer(wire, asked).raw_output_contents == [tensors.to_raw(given)]
    asked.parameters["binary_data_output"].bool_param = False
    answer = infer(wire, asked)
    assert not answer.raw_output_contents
    assert answer.outputs[0].contents == asked.inputs[0].contents
    assert answer.outputs[0].HasField("contents")


def test_raw_inputs_are_answered_raw_whatever_is_wanted(wire: grpc.Channel) -> None:
    asked = request("line", X, parameters=parameters(binary_data_output={"bool_param": False}))
    assert infer(wire, asked).raw_output_contents == [tensors.to_raw(2 * ROW)]


def test_a_scalar_has_an_empty_shape(wire: grpc.Channel) -> None:
    for made in (request, typed):
        answer = infer(wire, made("scalar", {"x": np.array(1.25, np.float32)}))
        assert list(answer.outputs[0].shape) == []
        assert output(answer) == 1.25


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (1, 2, 1, 3)])
def test_an_input_of_unknown_rank_takes_every_shape(shape: tuple[int, ...], wire: grpc.Channel) -> None:
    given = np.ones(shape, np.float32)
    answer = infer(wire, request("any", {"x": given}))
    assert tuple(answer.outputs[0].shape) == shape
    assert np.array_equal(output(answer), given)


def test_the_maps_of_a_classifier_are_answered_as_a_table(wire: grpc.Channel) -> None:
    scores = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    answer = infer(wire, request("zipped", {"x": scores}))
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("scores", "FP32", [2, 2])]
    assert np.array_equal(output(answer), scores)


def test_an_input_with_a_default_may_be_given_or_left_out(wire: grpc.Channel) -> None:
    for made in (request, typed):
        assert output(infer(wire, made("shifted", X))).tolist() == [[2, 3, 4]]
        assert output(infer(wire, made("shifted", {"by": 4 * ROW} | X))).tolist() == [[5, 10, 15]]
    described = pb.ModelMetadataRequest(name="shifted").SerializeToString()
    metadata = pb.ModelMetadataResponse.FromString(sent(wire, SERVICE + "ModelMetadata", described))
    assert [spec.name for spec in metadata.inputs] == ["x"]


def test_inputs_whose_first_dimensions_have_different_names_may_differ_in_them(wire: grpc.Channel) -> None:
    a, b = np.ones((2, 3), np.float32), np.arange(12, dtype=np.float32).reshape(3, 4)
    assert output(infer(wire, request("product", {"a": a, "b": b}))).tolist() == (a @ b).tolist()


def test_outputs_come_in_the_order_of_the_request(wire: grpc.Channel) -> None:
    def names(*asked: str) -> list[str]:
        outputs = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in asked]
        answer = infer(wire, request("scores", X, outputs=outputs))
        assert [output(answer, index).dtype.kind for index in range(len(answer.outputs))] == [
            "f" if tensor.name == "probabilities" else "i" for tensor in answer.outputs
        ]
        return [tensor.name for tensor in answer.outputs]

    assert names() == ["label", "probabilities"]
    assert names("probabilities", "label") == ["probabilities", "label"]
    assert names("probabilities") == ["probabilities"]


def test_a_named_version_answers_and_the_answer_says_who_gave_it(wire: grpc.Channel) -> None:
    answer = infer(wire, request("line", X, model_version="1", id="a b c"))
    assert (answer.model_name, answer.model_version, answer.id) == ("line", "1", "a b c")


def test_an_answer_says_who_gave_it_and_who_gets_a_copy_if_it_is_asked(wire: grpc.Channel) -> None:
    asked = request("line", X, parameters=parameters(gnomon_explain={"bool_param": True}))
    told = infer(wire, asked).parameters
    assert {name: value.WhichOneof("parameter_choice") for name, value in told.items()} == {
        "gnomon_version": "int64_param",
        "gnomon_role": "string_param",
        "gnomon_shadows": "string_param",
    }
    assert told["gnomon_version"].int64_param == 1
    eventually(lambda: infer(wire, asked).parameters["gnomon_shadows"].string_param == "2")
    assert not infer(wire, request("line", X)).parameters


def test_parameters_without_a_meaning_are_ignored(wire: grpc.Channel) -> None:
    free = parameters(
        custom={"double_param": 0.5},
        headers={"string_param": "reserved"},
        priority={"uint64_param": 1},
        timeout={"int64_param": 0},
        sequence_id={"int64_param": 0},
        triton_enable_empty_final_response={"bool_param": True},
    )
    assert output(infer(wire, request("line", X, parameters=free))).tolist() == [[2, 4, 6]]


def test_great_requests_and_answers_pass(wire: grpc.Channel) -> None:
    rows = np.arange(3 * 700_000, dtype=np.float32).reshape(-1, 3)
    asked = request("wide", {"x": rows})
    assert asked.ByteSize() > 8 << 20
    answer = infer(wire, asked)
    assert answer.ByteSize() > 20 << 20
    assert np.array_equal(output(answer), np.tile(rows, 3))


def test_a_message_above_the_limit_exhausts_a_resource(wire: grpc.Channel) -> None:
    status, _ = refusal(infer, wire, request("line", {"x": np.zeros((3 << 20, 3), np.float32)}))
    assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert output(infer(wire, request("line", X))).tolist() == [[2, 4, 6]]


def test_a_request_that_waits_longer_than_its_timeout_is_not_run(wire: grpc.Channel) -> None:
    # After one long run the model's runs go to a thread, and getting there takes longer than a microsecond.
    infer(wire, request("slow", {"x": HEAVY}))
    hasty = request("slow", {"x": LIGHT}, parameters=parameters(timeout={"int64_param": 1}))
    status, text = refusal(infer, wire, hasty)
    assert status == grpc.StatusCode.DEADLINE_EXCEEDED
    assert re.fullmatch(r"model 'slow' version '1': queue: expected start within 1 us, waited \d+ us", text)
    hasty.parameters["timeout"].int64_param = 60_000_000
    assert infer(wire, hasty).model_version == "1"


@dataclass
class Busy:
    """The slow model at work: as many runs as it has at once, and a full queue behind them."""

    running: list[Any]
    waiting: list[Any]


@pytest.fixture
def busy(wire: grpc.Channel) -> Iterator[Busy]:
    # After one long run the model's runs go to threads, two at once.
    infer(wire, request("slow", {"x": HEAVY}))
    running = [started(wire, request("slow", {"x": np.tile(HEAVY, (64, 1))})) for _ in range(2)]
    # They have begun once this is answered, which came after them.
    infer(wire, request("line", X))
    waiting = [started(wire, request("slow", {"x": HEAVY}, id=str(number))) for number in range(QUEUE)]
    yield Busy(running, waiting)
    for call in waiting:
        call.cancel()
    # A run cannot be broken off: the next test must find none of this one's.
    for call in running:
        call.result()


def test_a_full_queue_exhausts_a_resource_and_says_how_deep_it_is(busy: Busy, wire: grpc.Channel) -> None:
    status, text = refusal(infer, wire, request("slow", {"x": HEAVY}))
    assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text == f"model 'slow' version '1': queue: expected at most {QUEUE} waiting, received one more than {QUEUE}"
    # Nobody else is held up.
    assert output(infer(wire, request("line", X))).tolist() == [[2, 4, 6]]


def test_a_cancelled_call_gives_its_place_in_the_queue_to_another(busy: Busy, wire: grpc.Channel) -> None:
    busy.waiting[1].cancel()
    # Its RST_STREAM was sent before the request that this answers.
    infer(wire, request("line", X))
    last = started(wire, request("slow", {"x": HEAVY}, id="last"))
    assert last.result().id == "last"
    assert [busy.waiting[number].result().id for number in (0, 2)] == ["0", "2"]


def test_a_timeout_ends_a_request_while_those_before_it_still_run(busy: Busy, wire: grpc.Channel) -> None:
    busy.waiting[0].cancel()
    infer(wire, request("line", X))
    hasty = request("slow", {"x": HEAVY}, parameters=parameters(timeout={"int64_param": 1000}))
    status, text = refusal(infer, wire, hasty)
    assert status == grpc.StatusCode.DEADLINE_EXCEEDED
    assert re.fullmatch(r"model 'slow' version '1': queue: expected start within 1000 us, waited \d+ us", text)
    assert not any(call.done() for call in busy.running)


def test_the_python_client_raises_the_class_of_each_status_with_the_servers_words(
    busy: Busy, server: ServerProcess, wire: grpc.Channel
) -> None:
    with Client(server.grpc, retries=Retries(0)) as client:
        for kind, words, model, inputs, options in (
            (InvalidArgument, "expected shape [-1, 3], received [1, 2]", "line", [[1.0, 2.0]], {}),
            (InvalidArgument, "expected one of ['label'", "scores", ROW, {"outputs": ["nope"]}),
            (NotFound, "model 'nobody' not found", "nobody", ROW, {}),
            (NotFound, "version '9' not found", "line", ROW, {"version": 9}),
            (Internal, "execution failed; trace ", "raising", ROW, {}),
            (ResourceExhausted, "queue: expected at most 3 waiting", "slow", HEAVY, {}),
            (DeadlineExceeded, "expected start within 1000 us", "slow", HEAVY, {"parameters": {"timeout": 1000}}),
        ):
            if kind is DeadlineExceeded:
                busy.waiting[0].cancel()
                infer(wire, request("line", X))
            with pytest.raises(ClientError) as raised:
                client.infer(model, inputs, **options)
            assert type(raised.value) is kind
            assert words in raised.value.details


def ended(server: ServerProcess, status: str) -> float:
    """Calls of ModelInfer that ended with a status, as /metrics tells."""
    page = urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10).read().decode()
    pattern = rf'^rpc_server_call_duration_seconds_count\{{[^}}]*ModelInfer"[^}}]*"{status}"[^}}]*\}} (\S+)'
    return sum(float(count) for count in re.findall(pattern, page, re.MULTILINE))


def test_a_call_whose_deadline_passes_is_counted_as_such_and_harms_nobody(
    server: ServerProcess, wire: grpc.Channel
) -> None:
    infer(wire, request("slow", {"x": HEAVY}))
    before = ended(server, "DEADLINE_EXCEEDED")
    calls = [started(wire, request("slow", {"x": HEAVY}), 0.05) for _ in range(3)]
    assert {call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    eventually(lambda: ended(server, "DEADLINE_EXCEEDED") > before)
    assert infer(wire, request("slow", {"x": HEAVY})).model_version == "1"


def test_a_cancelled_call_is_counted_as_such_and_harms_nobody(server: ServerProcess, wire: grpc.Channel) -> None:
    infer(wire, request("slow", {"x": HEAVY}))
    before = ended(server, "CANCELLED")
    calls = [started(wire, request("slow", {"x": HEAVY})) for _ in range(4)]
    # Their streams were opened before this answer came, so that the server knows of them.
    infer(wire, request("line", X))
    for call in calls:
        call.cancel()
    eventually(lambda: ended(server, "CANCELLED") > before)
    assert infer(wire, request("slow", {"x": HEAVY})).model_version == "1"


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_clients_do_not_change_what_is_loaded_unless_a_setting_allows_it(method: str, wire: grpc.Channel) -> None:
    message = getattr(pb, f"{method}Request")(model_name="line")
    with pytest.raises(grpc.RpcError) as raised:
        sent(wire, SERVICE + method, message.SerializeToString())
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "expected the setting repository_control = true" in error.details()
    assert infer(wire, request("line", {"x": ROW})).model_version == "1"


@pytest.mark.parametrize("method", ["Status", "Register", "Unregister"])
def test_shared_memory_is_offered_by_a_setting_only(method: str, wire: grpc.Channel) -> None:
    message = getattr(pb, f"SystemSharedMemory{method}Request")()
    with pytest.raises(grpc.RpcError) as raised:
        sent(wire, f"{SERVICE}SystemSharedMemory{method}", message.SerializeToString())
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert error.details() == "shared memory is not offered: expected the setting shared_memory = true"
