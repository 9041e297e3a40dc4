"""The tensor codec: every array comes back, every malformed tensor is a TensorError, with the protocol's words."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import manifest_pb2, tensors
from gnomon_protos.tensors import CONTENTS, DATATYPES, FIXED, TensorError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
TYPED = [name for name in FIXED if name in CONTENTS]
# All that a client can put into a message.
DIMENSION = st.one_of(st.integers(-3, 5), st.integers(-(2**63), 2**63 - 1))
ANY_SHAPE = st.lists(DIMENSION, max_size=5)
ANY_DATATYPE = st.one_of(st.sampled_from([*DATATYPES, "", "fp32", "STRING"]), st.text(max_size=5))


def same(left: Any, right: Any) -> bool:
    return (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


def objects(values: list[Any], shape: tuple[int, ...]) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


@st.composite
def fixed_arrays(draw: Any, datatypes: list[str]) -> tuple[str, Any]:
    datatype = draw(st.sampled_from(datatypes))
    if datatype == "BF16":
        # hypothesis does not know the type; any two bytes are a number of it.
        return datatype, draw(hnp.arrays(np.uint16, SHAPES)).view(FIXED["BF16"])
    return datatype, draw(hnp.arrays(FIXED[datatype], SHAPES))


@st.composite
def bytes_arrays(draw: Any) -> Any:
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    return objects(draw(st.lists(st.binary(max_size=6), min_size=count, max_size=count)), shape)


@given(drawn=fixed_arrays(list(FIXED)))
def test_fixed_width_arrays_survive_raw_contents(drawn: tuple[str, Any]) -> None:
    datatype, array = drawn
    assert tensors.datatype_of(array) == datatype
    raw = tensors.to_raw(array)
    assert len(raw) == array.size * array.itemsize
    assert same(tensors.from_raw(datatype, array.shape, raw), array)


@given(drawn=fixed_arrays(TYPED))
def test_fixed_width_arrays_survive_typed_contents(drawn: tuple[str, Any]) -> None:
    datatype, array = drawn
    contents = pb.InferTensorContents()
    tensors.to_contents(array, contents)
    received = pb.InferTensorContents.FromString(contents.SerializeToString())
    back = tensors.from_contents(datatype, array.shape, received)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    # Signalling NaNs may be quieted on their way through Python's floats.
    np.testing.assert_array_equal(back, array)


@given(array=bytes_arrays())
def test_bytes_survive_both_forms_with_nulls_and_without_utf8(array: Any) -> None:
    contents = pb.InferTensorContents()
    tensors.to_contents(array, contents)
    for back in (
        tensors.from_raw("BYTES", array.shape, tensors.to_raw(array)),
        tensors.from_contents("BYTES", array.shape, contents),
    ):
        assert back.dtype == object
        assert back.shape == array.shape
        assert back.ravel().tolist() == array.ravel().tolist()


@given(texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1))
def test_texts_of_every_kind_of_array_are_utf8(texts: list[str]) -> None:
    for array in (objects(texts, (len(texts),)), np.array(texts, np.dtypes.StringDType())):
        assert tensors.datatype_of(array) == "BYTES"
        back = tensors.from_raw("BYTES", array.shape, tensors.to_raw(array))
        assert back.tolist() == [text.encode() for text in texts]
        assert tensors.to_text(back).tolist() == texts


@given(drawn=fixed_arrays(list(FIXED)), data=st.data())
def test_strided_views_are_written_in_row_major_order(drawn: tuple[str, Any], data: Any) -> None:
    datatype, array = drawn
    view = np.asfortranarray(array)[
        tuple(slice(None, None, data.draw(st.sampled_from([1, -1, 2]))) for _ in array.shape)
    ]
    assert same(
        tensors.from_raw(datatype, view.shape, tensors.to_raw(view)), np.ascontiguousarray(view).reshape(view.shape)
    )


# ml_dtypes has bfloat16 in native order only.
@given(drawn=fixed_arrays([name for name in FIXED if name != "BF16"]))
def test_big_endian_arrays_are_written_little_endian(drawn: tuple[str, Any]) -> None:
    datatype, array = drawn
    swapped = array.astype(array.dtype.newbyteorder(">"))
    assert tensors.datatype_of(swapped) == datatype
    assert tensors.to_raw(swapped) == tensors.to_raw(array)


@given(drawn=fixed_arrays(list(FIXED)))
def test_arrays_survive_the_manifests_message(drawn: tuple[str, Any]) -> None:
    _, array = drawn
    message = manifest_pb2.Tensor.FromString(tensors.to_message("x", array).SerializeToString())
    assert message.name == "x"
    assert same(tensors.from_message(message), array)


def test_a_raw_array_is_a_read_only_view() -> None:
    raw = np.arange(4, dtype=np.float32).tobytes()
    array = tensors.from_raw("FP32", (2, 2), raw)
    assert not array.flags.writeable
    assert array.base is not None


@given(datatype=ANY_DATATYPE, shape=ANY_SHAPE, raw=st.binary(max_size=64))
def test_any_raw_contents_are_an_array_or_a_tensor_error(datatype: str, shape: list[int], raw: bytes) -> None:
    with suppress(TensorError):
        array = tensors.from_raw(datatype, shape, raw)
        assert array.shape == tuple(shape)
        assert tensors.to_raw(array) == raw


@st.composite
def any_contents(draw: Any) -> pb.InferTensorContents:
    contents = pb.InferTensorContents()
    contents.bool_contents.extend(draw(st.lists(st.booleans(), max_size=3)))
    contents.int_contents.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)))
    contents.int64_contents.extend(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)))
    contents.uint_contents.extend(draw(st.lists(st.integers(0, 2**32 - 1), max_size=3)))
    contents.uint64_contents.extend(draw(st.lists(st.integers(0, 2**64 - 1), max_size=3)))
    contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    contents.fp64_contents.extend(draw(st.lists(st.floats(), max_size=3)))
    contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=3), max_size=3)))
    for field in draw(st.sets(st.sampled_from(sorted(set(CONTENTS.values()))), min_size=6)):
        contents.ClearField(field)
    return contents


@given(datatype=ANY_DATATYPE, shape=ANY_SHAPE, contents=any_contents())
def test_any_typed_contents_are_an_array_or_a_tensor_error(
    datatype: str, shape: list[int], contents: pb.InferTensorContents
) -> None:
    with suppress(TensorError):
        array = tensors.from_contents(datatype, shape, contents)
        assert array.shape == tuple(shape)
        assert tensors.datatype_of(array) == datatype


@given(raw=st.binary(max_size=40), count=st.integers(0, 5))
def test_any_bytes_elements_are_split_completely_or_a_tensor_error(raw: bytes, count: int) -> None:
    with suppress(TensorError):
        array = tensors.from_raw("BYTES", (count,), raw)
        assert sum(4 + len(element) for element in array) == len(raw)


@given(array=st.one_of(bytes_arrays(), st.just(objects([b"\xff"], (1,)))))
def test_bytes_are_text_or_a_tensor_error(array: Any) -> None:
    with suppress(TensorError):
        text = tensors.to_text(array)
        assert [element.encode() for element in text.ravel()] == array.ravel().tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.array([1j]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([1], "m8[s]"),
        np.zeros(1, np.longdouble),
        np.zeros(1, [("a", "<f4")]),
        np.zeros(1, "V3"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_that_the_protocol_lacks_is_a_tensor_error(array: Any) -> None:
    for write in (tensors.datatype_of, tensors.to_raw):
        with pytest.raises(TensorError, match=r"expected a dtype of BOOL, .*BYTES, received "):
            write(array)
    with pytest.raises(TensorError, match="expected a dtype of"):
        tensors.to_contents(array, pb.InferTensorContents())


def test_text_that_utf8_cannot_hold_is_a_tensor_error_with_its_place() -> None:
    for array in (np.array(["ok", "a\ud800"]), objects(["ok", "a\ud800"], (2,))):
        with pytest.raises(TensorError) as caught:
            tensors.to_raw(array)
        expected = "BYTES element 1: expected text that UTF-8 can hold, received '\\ud800' at 1"
        assert str(caught.value) == expected
        with pytest.raises(TensorError, match="BYTES element 1"):
            tensors.to_contents(array, pb.InferTensorContents())


def test_half_floats_have_no_typed_form() -> None:
    with pytest.raises(TensorError, match="expected a datatype with typed contents, received FP16"):
        tensors.to_contents(np.zeros(1, np.float16), pb.InferTensorContents())


def element(data: bytes, length: int | None = None) -> bytes:
    return struct.pack("<I", len(data) if length is None else length) + data


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "text"),
    [
        ("FP32", [2, 4], bytes(48), "expected 32 bytes for FP32 [2, 4], received 48"),
        ("INT64", [], b"", "expected 8 bytes for INT64 [], received 0"),
        ("FP64", [0], bytes(8), "expected 0 bytes for FP64 [0], received 8"),
        ("BYTES", [3], element(b"a") * 2, "expected 3 BYTES elements, received 2"),
        ("BYTES", [1], element(b"a") * 2, "expected 1 BYTES elements, received 5 bytes more"),
        ("BYTES", [0], bytes(400), "expected 0 BYTES elements, received 400 bytes more"),
        (
            "BYTES",
            [3],
            element(b"a") * 2 + element(b"four", 10),
            "BYTES element 2: expected 10 bytes, received 4",
        ),
        ("BYTES", [2], element(b"a") + b"\0\0", "BYTES element 1: expected a 4-byte length, received 2 bytes"),
        ("BOOL", [8], bytes([0, 1, 0, 1, 0, 1, 0, 2]), "element 7: expected 0 or 1, received 2"),
        ("FP32", [-1, 4], bytes(16), "expected a shape with every dimension given, received [-1, 4]"),
        ("FP32", [-1, -4], bytes(16), "expected a shape with every dimension given, received [-1, -4]"),
        ("BYTES", [-1], element(b"a"), "expected a shape with every dimension given, received [-1]"),
        ("FP32", [0, 2**62], b"", f"expected a shape that an array can have, received [0, {2**62}]"),
        ("FP32", [1] * 65, bytes(4), "expected a shape that an array can have, received 65 dimensions"),
        ("BYTES", [0, 2**62, 2**62], b"", f"expected a shape that an array can have, received [0, {2**62}, {2**62}]"),
    ],
)
def test_raw_contents_that_do_not_fit_are_told_in_the_protocols_words(
    datatype: str, shape: list[int], raw: bytes, text: str
) -> None:
    with pytest.raises(TensorError) as caught:
        tensors.from_raw(datatype, shape, raw)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("datatype", "shape", "contents", "text"),
    [
        ("FP32", [1], {"int64_contents": [1]}, "expected fp32_contents for FP32, received int64_contents"),
        (
            "FP32",
            [1],
            {"fp32_contents": [1.0], "fp64_contents": [1.0]},
            "expected fp32_contents for FP32, received fp64_contents",
        ),
        ("INT8", [6], {"int_contents": [0, 0, 0, 0, 0, 300]}, "element 5: expected INT8, received 300"),
        ("UINT16", [1], {"uint_contents": [65536]}, "element 0: expected UINT16, received 65536"),
        ("FP16", [1], {"fp32_contents": [1.0]}, "expected raw_input_contents for FP16, received contents"),
        ("FP32", [2, 4], {"fp32_contents": [0.0] * 6}, "expected 8 elements for FP32 [2, 4], received 6"),
        ("BYTES", [2], {"bytes_contents": [b"a"]}, "expected 2 elements for BYTES [2], received 1"),
        ("FP32", [-1], {"fp32_contents": [0.0]}, "expected a shape with every dimension given, received [-1]"),
    ],
)
def test_typed_contents_that_do_not_fit_are_told_in_the_protocols_words(
    datatype: str, shape: list[int], contents: dict[str, Any], text: str
) -> None:
    with pytest.raises(TensorError) as caught:
        tensors.from_contents(datatype, shape, pb.InferTensorContents(**contents))
    assert str(caught.value) == text


def test_a_byte_that_is_no_text_is_told_in_the_protocols_words() -> None:
    with pytest.raises(TensorError) as caught:
        tensors.to_text(objects([b"ok", b"\xff"], (2,)))
    assert str(caught.value) == "BYTES element 1: expected UTF-8, received byte 0xff at 0"


@pytest.mark.parametrize("received", ["FP8", "", "fp32", "\u00e9", "x" * 1000])
def test_a_datatype_that_does_not_exist_is_told_in_ascii_and_cut(received: str) -> None:
    reads: list[Any] = [
        lambda: tensors.from_raw(received, [1], bytes(4)),
        lambda: tensors.from_contents(received, [1], pb.InferTensorContents(fp32_contents=[1.0])),
        lambda: tensors.from_message(manifest_pb2.Tensor(datatype=received, shape=[1], raw=bytes(4))),
    ]
    for read in reads:
        with pytest.raises(TensorError) as caught:
            read()
        assert str(caught.value).isascii()
        assert str(caught.value).endswith(f"BYTES, received {received[:64]!a}")


def test_an_empty_tensor_may_have_empty_typed_contents() -> None:
    for datatype in CONTENTS:
        assert tensors.from_contents(datatype, [0, 3], pb.InferTensorContents()).shape == (0, 3)
