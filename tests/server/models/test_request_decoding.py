"""Requests and responses against a signature; what each single mistake gets is tested over the wire."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_calls import request, tensor, typed

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_server.errors import QUOTED, GnomonError, InvalidRequest, NotOffered, quoted
from gnomon_server.models import requests
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.serving.answers import varint
from gnomon_server.serving.transport import MOST_TEXT

SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1,))),
    (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("t", "BYTES", (-1,)), TensorSpec("n", "INT64", (-1,))),
)
X = np.array([[1, 2], [3, 4]], np.float32)
S = np.array(["a", "ü"], object)
Y = {"y": X, "t": S, "n": np.array([1, 2])}


def decoded(message: pb.ModelInferRequest) -> dict[str, Any]:
    return requests.decode_inputs(message, SIGNATURE, "line", 3)


def refused(message: pb.ModelInferRequest) -> str:
    with pytest.raises(GnomonError) as raised:
        decoded(message)
    text = str(raised.value)
    assert text.startswith("model 'line' version '3': ")
    return text.removeprefix("model 'line' version '3': ")


@pytest.mark.parametrize("form", [request, typed])
def test_both_forms_give_the_same_arrays_with_text_as_str(form: Any) -> None:
    inputs = decoded(form("line", {"s": S, "x": X}))
    assert inputs["x"].dtype == np.float32
    assert inputs["x"].tolist() == X.tolist()
    assert inputs["s"].tolist() == ["a", "ü"]
    assert all(type(element) is str for element in inputs["s"])


def test_raw_numbers_are_not_copied() -> None:
    assert not decoded(request("line", {"x": X, "s": S}))["x"].flags.owndata


def test_checks_come_in_their_order() -> None:
    """A request with every mistake; each is mended once it has been reported."""
    message = pb.ModelInferRequest(
        model_name="line",
        inputs=[tensor("x", "FP64", [5]), tensor("z", "FP32", [1])],
        raw_input_contents=[b"1", b"2", b"3"],
    )
    message.parameters["priority"].bool_param = True
    assert refused(message).startswith("parameter 'priority'")
    message.parameters.clear()
    assert refused(message).startswith("input 'z': expected one of ['x', 's']")
    message.inputs[1].name = "x"
    assert refused(message) == "input 'x': expected once, received 2 times"
    del message.inputs[1]
    assert refused(message) == "expected inputs ['x', 's'], received ['x']"
    message.inputs.append(tensor("s", "FP32", [3, 3]))
    assert refused(message) == "expected 2 raw_input_contents, one per input, received 3"
    del message.raw_input_contents[2]
    assert refused(message) == "input 'x': expected datatype FP32, received FP64"
    message.inputs[0].datatype = "FP32"
    assert refused(message) == "input 'x': expected shape [-1, 2], received [5]"
    message.inputs[0].shape[:] = [1, 2]
    message.inputs[0].contents.fp32_contents.append(1)
    assert refused(message) == "input 'x': expected no contents beside raw_input_contents"
    message.inputs[0].ClearField("contents")
    assert refused(message) == "input 'x': expected 8 bytes for FP32 [1, 2], received 1"
    message.raw_input_contents[0] = bytes(8)
    assert refused(message) == "input 's': expected datatype BYTES, received FP32"
    message.inputs[1].datatype = "BYTES"
    assert refused(message) == "input 's': expected shape [-1], received [3, 3]"
    message.inputs[1].shape[:] = [2]
    assert refused(message) == "input 's': BYTES element 0: expected a 4-byte length, received 1 bytes"
    message.raw_input_contents[1] = tensors.to_raw(np.array([b"\xff", b""], object))
    assert refused(message) == "input 's': BYTES element 0: expected UTF-8, received byte 0xff at 0"
    message.raw_input_contents[1] = tensors.to_raw(S)
    assert refused(message) == "input 's': expected batch 1 as in 'x', received 2"
    message.inputs[0].shape[:] = [2, 2]
    message.raw_input_contents[0] = tensors.to_raw(X)
    assert decoded(message)["s"].tolist() == ["a", "ü"]


def test_of_many_inputs_the_missing_ones_are_named_in_ascii() -> None:
    names = [f"größe {number}" for number in range(300)]
    many = Signature(tuple(TensorSpec(name, "FP32", (1,)) for name in names), SIGNATURE.outputs)
    message = request("many", dict.fromkeys(names[:-1], np.ones(1, np.float32)))
    with pytest.raises(InvalidRequest) as raised:
        requests.decode_inputs(message, many, "many", 1)
    text = str(raised.value)
    assert text.isascii()
    assert len(text) <= MOST_TEXT
    assert r"expected inputs ['gr\xf6\xdfe 0', " in text
    assert text.endswith(r", and 283 more]; missing are ['gr\xf6\xdfe 299']")


@given(st.text(max_size=200))
def test_a_clients_text_is_quoted_escaped_and_cut(text: str) -> None:
    shown = quoted(text)
    assert shown.isascii()
    assert "\n" not in shown
    assert "\r" not in shown
    # An escaped character takes up to ten.
    assert len(shown) <= 10 * QUOTED + 5


def asked(*names: str) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names])


def test_the_outputs_are_those_asked_for_or_all() -> None:
    assert list(requests.output_names(asked(), SIGNATURE, "line", 3)) == ["y", "t", "n"]
    assert list(requests.output_names(asked("n", "y"), SIGNATURE, "line", 3)) == ["n", "y"]
    with pytest.raises(InvalidRequest, match="output 'x': expected one of"):
        requests.output_names(asked("y", "x"), SIGNATURE, "line", 3)
    with pytest.raises(InvalidRequest, match="output 'y': expected once, received 2 times"):
        requests.output_names(asked("y", "n", "y"), SIGNATURE, "line", 3)
    wish = asked("y")
    wish.outputs[0].parameters["classification"].int64_param = 2
    with pytest.raises(NotOffered, match="output 'y': classification is not offered"):
        requests.output_names(wish, SIGNATURE, "line", 3)


@pytest.mark.parametrize("names", [("y", "t", "n"), ("n", "t"), ("t",)])
@pytest.mark.parametrize("form", [request, typed])
@pytest.mark.parametrize("binary", [None, True, False])
def test_a_response_reads_back_as_it_was_whatever_its_form(names: tuple[str, ...], form: Any, binary: Any) -> None:
    message = form("line", {"x": X, "s": S}, id="one")
    if binary is not None:
        message.parameters["binary_data_output"].bool_param = binary
    data = requests.encode_response(message, "line", 3, names, [Y[name] for name in names])
    response = pb.ModelInferResponse.FromString(data)
    assert (response.model_name, response.model_version, response.id) == ("line", "3", "one")
    wants_typed = form is typed and binary is False
    assert bool(response.raw_output_contents) is not wants_typed
    assert all(output.HasField("contents") is wants_typed for output in response.outputs)
    outputs = requests.decode_outputs(response)
    assert list(outputs) == list(names)
    for name in names:
        assert outputs[name].tolist() == Y[name].tolist()


def test_an_answer_with_half_precision_is_raw_as_a_whole() -> None:
    message = typed("line", {"x": X, "s": S})
    message.parameters["binary_data_output"].bool_param = False
    data = requests.encode_response(message, "line", 3, ("y", "n"), [X.astype(np.float16), Y["n"]])
    response = pb.ModelInferResponse.FromString(data)
    assert len(response.raw_output_contents) == 2
    assert [output.datatype for output in response.outputs] == ["FP16", "INT64"]


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("timeout", {"uint64_param": 1}, InvalidRequest),
        ("timeout", {"int64_param": -1}, InvalidRequest),
        ("timeout", {}, InvalidRequest),
        ("priority", {"string_param": "high"}, InvalidRequest),
        ("sequence_start", {"int64_param": 1}, InvalidRequest),
        ("triton_final_response", {"bool_param": True}, InvalidRequest),
        ("sequence_id", {"string_param": "ü" * 65}, InvalidRequest),
        ("sequence_id", {"bool_param": True}, InvalidRequest),
        ("sequence_id", {"string_param": "s" * 128}, None),
        ("sequence_id", {"int64_param": -1}, None),
        ("sequence_end", {"bool_param": True}, None),
        ("timeout", {"int64_param": 0}, None),
        ("priority", {"uint64_param": 1 << 60}, None),
        ("sequence_id", {"string_param": ""}, None),
        ("sequence_start", {"bool_param": False}, None),
        ("triton_enable_empty_final_response", {"bool_param": True}, None),
        ("anything", {"double_param": 1.5}, None),
    ],
)
def test_parameters_with_a_meaning_are_checked(
    name: str, value: dict[str, Any], kind: type[GnomonError] | None
) -> None:
    message = request("line", {"x": X, "s": S}, parameters={name: pb.InferParameter(**value)})
    if kind is None:
        assert decoded(message)
    else:
        with pytest.raises(kind, match=f"parameter '{name}'"):
            decoded(message)


# What comes before millions of parts, and one of those: of the request itself, or of an input within it.
LONG = 64 << 20
HEAVY = {
    "inputs": (b"", b"\x2a\x00"),
    "outputs": (b"", b"\x32\x00"),
    "parameters": (b"", b"\x22\x00"),
    "raw contents": (b"", b"\x3a\x00"),
    "unknown fields": (b"", b"\x78\x01"),
    "an input's parameters": (b"\x2a" + varint(LONG), b"\x22\x00"),
    "dimensions": (b"\x2a" + varint(LONG), b"\x18\x01"),
    "packed dimensions": (b"\x2a" + varint(LONG + 5) + b"\x1a" + varint(LONG), b"\x01"),
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_message_of_millions_of_parts_is_refused_before_it_is_parsed(name: str) -> None:
    head, part = HEAVY[name]
    message = head + part * (LONG // len(part))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidRequest, match="expected at most 65536 tensors, parameters and dimensions"):
        requests.parse(message)
    # Parsed, each takes 0.4 to 2.9 GiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_model_may_have_thousands_of_inputs() -> None:
    wide = request("wide", {f"column{number}": X for number in range(9000)})
    assert requests.parse(wide.SerializeToString()) == wide


@pytest.mark.parametrize("tail", [b"\xff" * 100_000, b"\x2a\x80", b"\x2a\xff\xff\x03", b"\x0d\x00", b"\x7b"])
def test_a_long_message_that_is_none_is_refused(tail: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"expected a protobuf message, received \d+ bytes that are none"):
        requests.parse(request("line", {"x": np.zeros((20_000, 2), np.float32)}).SerializeToString() + tail)


@given(st.text(max_size=100))
def test_a_text_from_a_client_is_shown_in_printable_ascii(text: str) -> None:
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()


def test_more_texts_than_can_be_read_at_once_are_refused_before_they_are_read() -> None:
    texts = (1 << 20) + 1
    message = request("line", {"x": X, "s": S})
    message.inputs[1].shape[:] = [texts]
    message.raw_input_contents[1] = bytes(4 * texts)
    assert refused(message) == f"input 's': expected at most {1 << 20} BYTES elements, received {texts}"
