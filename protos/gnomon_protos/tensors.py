"""The one codec between numpy arrays and tensors of the Open Inference Protocol.

Raw contents are little-endian, row-major and unpadded; a BYTES element is a uint32 length and that many bytes
(Open Inference Protocol, "Tensor Data"; Triton's binary extension).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import manifest_pb2

try:
    from ml_dtypes import bfloat16
except ModuleNotFoundError:  # numpy has none of its own, and a client that never meets it does without
    bfloat16 = None

Array = NDArray[Any]

# Datatypes of a fixed width, by protocol name.
FIXED: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES: Final = (*FIXED, "BF16", "BYTES")
if bfloat16 is not None:
    FIXED["BF16"] = np.dtype(bfloat16)

# The typed field that carries each datatype; FP16 and BF16 travel raw only.
CONTENTS: Final[dict[str, str]] = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_LENGTH = struct.Struct("<I")
_NAMES: Final = {dtype.str.lstrip("<|="): name for name, dtype in FIXED.items() if dtype.kind != "V"}


class TensorError(ValueError):
    """Data that is not what its datatype and shape say; the text names what was expected and what was received."""


def datatype_of(array: Array) -> str:
    """Returns the protocol's name for the dtype of `array`; raises TensorError where the protocol has none."""
    if array.dtype.kind in "OSUT":
        return "BYTES"
    name = _NAMES.get(array.dtype.str.lstrip("<>|="))
    if name is None and is_bfloat16(array.dtype):
        return "BF16"
    if name is None:
        raise TensorError(f"expected a dtype of {', '.join(DATATYPES)}, received {array.dtype}")
    return name


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is the one of BF16, which to numpy is of the kind of raw memory."""
    return dtype.kind == "V" and dtype == FIXED.get("BF16")


def widened(array: Array) -> Array:
    """Returns a BF16 array as the FP32 array of the same numbers, so that numpy can reckon with it; others as is."""
    return array.astype(np.float32) if is_bfloat16(array.dtype) else array


def to_raw(array: Array) -> bytes:
    """Returns the raw contents of an array; text elements become UTF-8, other objects the text that str() gives.

    Raises TensorError for a dtype that the protocol lacks and for text that UTF-8 cannot hold.
    """
    datatype = datatype_of(array)
    if datatype != "BYTES":
        return array.astype(FIXED[datatype], copy=False).tobytes()
    parts: list[bytes] = []
    for data in _encoded(array):
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def from_raw(datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """Returns raw contents as an array of `shape`: a read-only view, or for BYTES an object array of bytes.

    Raises TensorError for an unknown datatype, a negative dimension, or bytes that do not fill the shape exactly.
    """
    dtype = FIXED.get(datatype)
    if dtype is None:
        _check_datatype(datatype)
        return _shaped(_objects(_split(raw, _count(shape))), shape)
    expected = prod(shape) * dtype.itemsize
    if len(raw) != expected:
        _count(shape)
        raise TensorError(f"expected {expected} bytes for {datatype} {list(shape)}, received {len(raw)}")
    array = _shaped(np.frombuffer(raw, dtype), shape)
    if datatype == "BOOL":
        _check_bools(raw)
    return array


def from_contents(datatype: str, shape: Sequence[int], contents: pb.InferTensorContents) -> Array:
    """Returns typed contents as an array of `shape`.

    Raises TensorError for an unknown datatype, a negative dimension, the wrong field, a second field, the wrong number
    of elements, or a value out of range.
    """
    field = CONTENTS.get(datatype)
    if field is None:
        _check_datatype(datatype)
        raise TensorError(f"expected raw_input_contents for {datatype}, received contents")
    for other, _ in contents.ListFields():
        if other.name != field:
            raise TensorError(f"expected {field} for {datatype}, received {other.name}")
    values = getattr(contents, field)
    count = _count(shape)
    if len(values) != count:
        raise TensorError(f"expected {count} elements for {datatype} {list(shape)}, received {len(values)}")
    if datatype == "BYTES":
        return _shaped(_objects(list(values)), shape)
    dtype = FIXED[datatype]
    if field in ("int_contents", "uint_contents"):
        wide = np.array(values, np.int64)
        limits = np.iinfo(dtype)
        wrong = np.flatnonzero((wide < limits.min) | (wide > limits.max))
        if wrong.size:
            raise TensorError(f"element {wrong[0]}: expected {datatype}, received {wide[wrong[0]]}")
        return _shaped(wide.astype(dtype), shape)
    return _shaped(np.array(values, dtype), shape)


def to_contents(array: Array, contents: pb.InferTensorContents) -> None:
    """Fills `contents` from an array; raises TensorError for a datatype without a typed field, or as to_raw does."""
    datatype = datatype_of(array)
    if datatype not in CONTENTS:
        raise TensorError(f"expected a datatype with typed contents, received {datatype}")
    values = _encoded(array) if datatype == "BYTES" else array.ravel().tolist()
    getattr(contents, CONTENTS[datatype]).extend(values)


def to_text(array: Array) -> Array:
    """Returns an object array of bytes as one of str, decoded as UTF-8; raises TensorError naming the element."""
    texts: list[str] = []
    for index, element in enumerate(array.ravel()):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as error:
            byte = element[error.start]
            message = f"BYTES element {index}: expected UTF-8, received byte {byte:#04x} at {error.start}"
            raise TensorError(message) from None
    return _shaped(_objects(texts), array.shape)


def to_message(name: str, array: Array) -> manifest_pb2.Tensor:
    """Returns an array as the manifest's tensor message."""
    return manifest_pb2.Tensor(name=name, datatype=datatype_of(array), shape=array.shape, raw=to_raw(array))


def from_message(tensor: manifest_pb2.Tensor) -> Array:
    """Returns the array of a manifest's tensor message; raises TensorError if its bytes do not fill its shape."""
    return from_raw(tensor.datatype, tuple(tensor.shape), tensor.raw)


def _split(raw: bytes, count: int) -> list[bytes]:
    """Cuts BYTES contents into their elements."""
    elements: list[bytes] = []
    position, end = 0, len(raw)
    while position < end:
        if len(elements) == count:
            # Not one more is cut: there may be millions.
            raise TensorError(f"expected {count} BYTES elements, received {end - position} bytes more")
        if end - position < 4:
            message = f"BYTES element {len(elements)}: expected a 4-byte length, received {end - position} bytes"
            raise TensorError(message)
        (length,) = _LENGTH.unpack_from(raw, position)
        position += 4
        if end - position < length:
            message = f"BYTES element {len(elements)}: expected {length} bytes, received {end - position}"
            raise TensorError(message)
        elements.append(raw[position : position + length])
        position += length
    if len(elements) != count:
        raise TensorError(f"expected {count} BYTES elements, received {len(elements)}")
    return elements


def _encoded(array: Array) -> list[bytes]:
    """Returns the elements of a BYTES array in row-major order."""
    elements: list[bytes] = []
    for element in array.ravel():
        try:
            elements.append(bytes(element) if isinstance(element, bytes) else str(element).encode())
        except UnicodeEncodeError as error:
            wrong = ascii(error.object[error.start])
            message = f"BYTES element {len(elements)}: expected text that UTF-8 can hold, received {wrong}"
            raise TensorError(f"{message} at {error.start}") from None
    return elements


def _objects(values: Sequence[object]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _shaped(array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError):
        # The number of elements fits, so the shape is one that no array can have: too many or too great dimensions.
        _count(shape)
        shown = str(list(shape)) if len(shape) <= 16 else f"{len(shape)} dimensions"
        raise TensorError(f"expected a shape that an array can have, received {shown}") from None


def _count(shape: Sequence[int]) -> int:
    """Returns the number of elements of a shape; raises TensorError for a negative dimension."""
    if any(dimension < 0 for dimension in shape):
        raise TensorError(f"expected a shape with every dimension given, received {list(shape)}")
    return prod(shape)


def _check_datatype(datatype: str) -> None:
    if datatype == "BF16" and bfloat16 is None:
        raise TensorError("BF16 needs the package ml_dtypes, which is not installed")
    if datatype not in DATATYPES:
        raise TensorError(f"expected a datatype of {', '.join(DATATYPES)}, received {datatype[:64]!a}")


def _check_bools(raw: bytes) -> None:
    values = np.frombuffer(raw, np.uint8)
    wrong = np.flatnonzero(values > 1)
    if wrong.size:
        raise TensorError(f"element {wrong[0]}: expected 0 or 1, received {values[wrong[0]]}")
