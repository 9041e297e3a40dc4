from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from server.serving.fakes import Doubler

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import FIXED, Array, datatype_of, to_raw
from gnomon_server.serving.answers import Answers, varint
from gnomon_server.serving.templates import MOST, Templates

SERVABLE = Doubler()
DATATYPES = sorted(set(FIXED) - {"BOOL"})
IDS = st.text(max_size=200)


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(
        model_name=draw(st.text(max_size=150)), model_version=draw(st.sampled_from(["", "1", "12"])), id=draw(IDS)
    )
    for number in range(draw(st.integers(1, 3))):
        datatype = draw(st.sampled_from(DATATYPES))
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        size = int(np.prod(shape)) * FIXED[datatype].itemsize
        request.inputs.add(name=f"x{number}", datatype=datatype, shape=shape)
        request.raw_input_contents.append(draw(st.binary(min_size=size, max_size=size)))
    for name in draw(st.lists(st.sampled_from(["label", "y"]), max_size=2, unique=True)):
        request.outputs.add(name=name)
    return request


def renewed(request: pb.ModelInferRequest, request_id: str, byte: int) -> pb.ModelInferRequest:
    """The same kind of request with another id and other numbers."""
    other = pb.ModelInferRequest()
    other.CopyFrom(request)
    other.id = request_id
    del other.raw_input_contents[:]
    other.raw_input_contents.extend(bytes([byte]) * len(data) for data in request.raw_input_contents)
    return other


@given(requests(), st.text(st.characters(codec="ascii"), max_size=100), st.integers(0, 255))
def test_what_is_recognised_is_what_protobuf_reads(request: pb.ModelInferRequest, request_id: str, byte: int) -> None:
    templates = Templates()
    templates.learn(request.SerializeToString(), request, SERVABLE, "primary", ("label",))
    other = renewed(request, request_id, byte)
    found = templates.recognise(other.SerializeToString())
    if len(request.model_name.encode()) < 128 and request.model_name and len(request.id.encode()) < 128:
        assert found is not None
    if found is not None:
        layout, found_id, raw = found
        assert found_id.decode() == other.id
        assert raw == tuple(other.raw_input_contents)
        assert layout.servable is SERVABLE
        assert layout.names == tuple(tensor.name for tensor in other.inputs)
        assert layout.shapes == tuple(tuple(tensor.shape) for tensor in other.inputs)
        assert layout.outputs == ("label",)


@given(requests(), st.data())
def test_a_changed_byte_is_never_read_as_something_else_than_protobuf_reads(
    request: pb.ModelInferRequest, data: st.DataObject
) -> None:
    templates = Templates()
    message = request.SerializeToString()
    templates.learn(message, request, SERVABLE, "primary", ("label",))
    position = data.draw(st.integers(0, len(message) - 1))
    changed = message[:position] + bytes([data.draw(st.integers(0, 255))]) + message[position + 1 :]
    found = templates.recognise(changed)
    if found is not None:
        read = pb.ModelInferRequest.FromString(changed)
        layout, found_id, raw = found
        assert (read.model_name, read.model_version) == (request.model_name, request.model_version)
        assert raw == tuple(read.raw_input_contents)
        assert found_id.decode() == read.id
        assert layout.names == tuple(tensor.name for tensor in read.inputs)
        assert layout.shapes == tuple(tuple(tensor.shape) for tensor in read.inputs)


@given(requests(), st.binary(max_size=300))
def test_nothing_that_was_not_learnt_is_recognised(request: pb.ModelInferRequest, noise: bytes) -> None:
    templates = Templates()
    assert templates.recognise(noise) is None
    message = request.SerializeToString()
    templates.learn(message, request, SERVABLE, "primary", ("label",))
    assert templates.recognise(message + b"\x22\x00") is None


def test_requests_with_parameters_text_or_truth_values_are_always_parsed() -> None:
    plain = pb.ModelInferRequest(model_name="m")
    plain.inputs.add(name="x", datatype="FP32", shape=[1])
    plain.raw_input_contents.append(b"1234")
    for field, value in (("parameters", None), ("datatype", "BYTES"), ("datatype", "BOOL")):
        request = pb.ModelInferRequest()
        request.CopyFrom(plain)
        if field == "parameters":
            request.parameters["timeout"].int64_param = 5
        else:
            request.inputs[0].datatype = str(value)
        templates = Templates()
        templates.learn(request.SerializeToString(), request, SERVABLE, "primary", ("y",))
        assert templates.recognise(request.SerializeToString()) is None


def test_clients_cannot_make_the_templates_grow_for_ever() -> None:
    templates = Templates()
    for rows in range(MOST + 100):
        request = pb.ModelInferRequest(model_name="m")
        request.inputs.add(name="x", datatype="UINT8", shape=[rows])
        request.raw_input_contents.append(bytes(rows))
        templates.learn(request.SerializeToString(), request, SERVABLE, "primary", ("y",))
    known = [templates.recognise(_of(rows)) for rows in (1, MOST + 99)]
    assert known[0] is not None
    assert known[1] is None


def test_what_a_client_repeats_beside_the_protocol_is_not_kept() -> None:
    templates = Templates()
    tracemalloc.start()
    try:
        for number in range(100):
            # Field 100, which the protocol does not have, between the inputs and their contents.
            unknown = b"\xa2\x06" + varint(100_000 + number) + bytes(100_000 + number)
            head, _, numbers = _of(4).partition(b"\x3a")
            message = head + unknown + b"\x3a" + numbers
            templates.learn(message, pb.ModelInferRequest.FromString(message), SERVABLE, "primary", ("y",))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_clients_cannot_make_the_kinds_grow_for_ever() -> None:
    templates = Templates()
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[b""])
    request.inputs.add(name="x", datatype="UINT8")
    tracemalloc.start()
    try:
        for width in range(5000):
            # No rows of any width: messages of one length, each of another kind.
            request.inputs[0].shape[:] = (0, (1 << 50) + width)
            templates.learn(request.SerializeToString(), request, SERVABLE, "primary", ("y",))
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


def _of(rows: int) -> bytes:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="UINT8", shape=[rows])
    request.raw_input_contents.append(bytes(rows))
    return request.SerializeToString()


TENSORS = st.tuples(st.sampled_from([*DATATYPES, "BYTES"]), st.lists(st.integers(0, 4), max_size=3))


@given(st.lists(IDS, min_size=1, max_size=5), st.lists(TENSORS, max_size=3), st.integers(0, 3))
def test_answers_have_the_bytes_that_protobuf_writes(
    ids: list[str], specs: list[tuple[str, list[int]]], rows: int
) -> None:
    # One request may have outputs of any shape, several only rows of them.
    shapes = [shape if len(ids) == 1 else [rows, *shape] for _, shape in specs]
    ones = [
        [_filled(datatype, shape, number) for (datatype, _), shape in zip(specs, shapes, strict=True)]
        for number in range(len(ids))
    ]
    names = tuple(f"y{number}" for number in range(len(specs)))
    together = ones[0] if len(ids) == 1 else [np.concatenate(parts) for parts in zip(*ones, strict=True)]
    answers = Answers("m", 7)
    for _ in range(2):
        written = answers.write([one.encode() for one in ids], names, together)
        for answer, one, outputs in zip(written, ids, ones, strict=True):
            expected = pb.ModelInferResponse(model_name="m", model_version="7", id=one)
            for name, output in zip(names, outputs, strict=True):
                expected.outputs.add(name=name, datatype=datatype_of(output), shape=output.shape)
                expected.raw_output_contents.append(to_raw(output))
            assert answer == expected.SerializeToString()


def _filled(datatype: str, shape: list[int], number: int) -> Array:
    if datatype == "BYTES":
        return np.full(shape, "x" * number, object)
    return np.full(shape, number, FIXED[datatype])
