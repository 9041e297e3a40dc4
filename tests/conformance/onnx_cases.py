"""The cases of ONNX's backend test data: a model, its inputs, and what onnxruntime gives for them in this process."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from gnomon_protos.tensors import Array

KINDS: Final = ("node", "simple", "pytorch-operator", "pytorch-converted")
# What ONNX's own runner of these cases allows.
RTOL: Final = 1e-3
ATOL: Final = 1e-7
BFLOAT16: Final = onnx.TensorProto.BFLOAT16
# What onnxruntime's texts say of this machine.
PATHS: Final = re.compile(r"[\w.+-]*/\S*/\S*")
# ONNX's element types that the Open Inference Protocol has no datatype for.
FOREIGN: Final = ("FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2", "COMPLEX")


class Skipped(Exception):
    """A case that says nothing about a server; the text is the reason."""


@dataclass(frozen=True)
class Case:
    """One set of inputs for one model, and what onnxruntime answers."""

    name: str
    model: Path
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    # Whether these are the outputs that ONNX expects.
    as_expected: bool


def folders(data: Path) -> Iterator[Path]:
    """Yields the folder of each case."""
    for kind in KINDS:
        yield from sorted(path.parent for path in (data / kind).glob("*/model.onnx"))


def read(folder: Path) -> list[Case]:
    """Returns a folder's cases as onnxruntime answers them; raises Skipped where it does not."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    _check_types([*model.graph.input, *model.graph.output])
    session = _session(path)
    return [_case(folder, model, session, data) for data in sorted(folder.glob("test_data_set_*"))]


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are alike to the last bit; text is compared as text."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "OSU":
        return [_text(element) for element in one.ravel()] == [_text(element) for element in other.ravel()]
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _check_types(values: Sequence[onnx.ValueInfoProto]) -> None:
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise Skipped(f"{value.name!r} is no tensor but a {kind.removesuffix('_type')}")
        element = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if element.startswith(FOREIGN):
            raise Skipped(f"the protocol has no datatype for {element}")


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - any failure of the library is a reason
        raise Skipped(f"onnxruntime does not load it: {_first_line(error)}") from None


def _case(folder: Path, model: onnx.ModelProto, session: onnxruntime.InferenceSession, data: Path) -> Case:
    # Some cases leave inputs out that have a default.
    inputs = dict(zip([value.name for value in model.graph.input], _tensors(data, "input"), strict=False))
    names = [value.name for value in model.graph.output]
    received = _run(session, inputs, names)
    if not all(map(same, received, _run(session, inputs, names))):
        raise Skipped("onnxruntime gives something else each time")
    return Case(
        name=f"{folder.parent.name}.{folder.name}",
        model=folder / "model.onnx",
        inputs=inputs,
        outputs=dict(zip(names, received, strict=True)),
        as_expected=all(map(_close, received, _tensors(data, "output"))),
    )


def _run(session: onnxruntime.InferenceSession, inputs: dict[str, Array], outputs: Sequence[str]) -> list[Array]:
    bfloat16 = any(value.type == "tensor(bfloat16)" for value in (*session.get_inputs(), *session.get_outputs()))
    try:
        if bfloat16:
            return _run_bfloat16(session, inputs, outputs)
        arrays: list[Array] = session.run(outputs, inputs)
    except Exception as error:  # noqa: BLE001 - any failure of the library is a reason
        raise Skipped(f"onnxruntime does not run it: {_first_line(error)}") from None
    return arrays


def _tensors(data: Path, kind: str) -> list[Array]:
    count = len(list(data.glob(f"{kind}_*.pb")))
    messages = [onnx.TensorProto.FromString((data / f"{kind}_{index}.pb").read_bytes()) for index in range(count)]
    return [numpy_helper.to_array(message) for message in messages]


def _run_bfloat16(
    session: onnxruntime.InferenceSession, inputs: dict[str, Array], outputs: Sequence[str]
) -> list[Array]:
    """Runs a model that numpy arrays cannot be given to, since onnxruntime does not know numpy's bfloat16."""
    given = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
        if array.dtype == ml_dtypes.bfloat16
        else onnxruntime.OrtValue.ortvalue_from_numpy(array)
        for name, array in inputs.items()
    }
    return [_read(value) for value in session.run_with_ort_values(outputs, given)]


def _read(value: onnxruntime.OrtValue) -> Array:
    if value.element_type() != BFLOAT16:
        array: Array = value.numpy()
        return array
    data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(data, ml_dtypes.bfloat16).reshape(value.shape())


def _close(received: Array, wanted: Array) -> bool:
    if received.shape != wanted.shape or received.dtype != wanted.dtype:
        return False
    if received.dtype.kind not in "fV":
        return same(received, wanted)
    return bool(np.allclose(received.astype(np.float64), wanted, rtol=RTOL, atol=ATOL, equal_nan=True))


def _text(element: object) -> str:
    return element.decode() if isinstance(element, bytes) else str(element)


def _first_line(error: Exception) -> str:
    return PATHS.sub("the file", (str(error).splitlines() or [type(error).__name__])[0])[:200]
