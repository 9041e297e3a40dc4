"""A session: one ONNX file in onnxruntime, which no other module imports."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from gnomon_protos.tensors import FIXED, Array, is_bfloat16
from gnomon_server.errors import Internal, LoadError
from gnomon_server.models.ranks import unranked
from gnomon_server.models.signature import TensorSpec
from gnomon_server.settings import SessionSettings

# onnxruntime reports home from 1.29 on unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

log = logging.getLogger(__name__)

# onnxruntime's element types, and the protocol's names for them.
DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# What ZipMap makes of a table of class scores, as converters of scikit-learn do unless told not to: one map a row, from
# the class to its score. It is served as the table that it was, with a column a class in the order of the keys.
MAPS: Final = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
# BFLOAT16 in ONNX's TensorProto.DataType.
BFLOAT16: Final = 16
# "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : ", which tells a reader nothing that the text after it does not.
ORT_PREFIX: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
# By what the settings call it.
OPTIMIZATION: Final = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class Session:
    """A loaded file; safe to run from several threads at once."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        """Raises LoadError with the reason in one line."""
        self._session = _opened(path, settings)
        inputs = self._session.get_inputs()
        # Graph inputs with an initializer: what a request leaves out, the model has.
        defaulted = self._session.get_overridable_initializers()
        outputs = self._session.get_outputs()
        shapes = [value.shape or value.type in MAPS for value in (*inputs, *defaulted, *outputs)]
        free = frozenset() if all(shapes) else unranked(path)
        self.inputs = (
            *(_spec(value, free) for value in inputs),
            *(_spec(value, free, optional=True) for value in defaulted),
        )
        self.outputs = tuple(_spec(value, free) for value in outputs)
        # What the model calls the first dimension of each input that has to be given; None where it gives no name.
        self.first_dimensions = frozenset(value.shape[0] if value.shape else None for value in inputs)
        # Of outputs that are maps, the classes, known from the first run on that gives a row.
        self.classes: dict[str, tuple[str, ...]] = {value.name: () for value in outputs if value.type in MAPS}
        self._run = self._runner()

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the named outputs; blocks, with the GIL released. Text travels as object arrays of str.

        Raises Internal if the model fails on this input.
        """
        try:
            return self._run(inputs, outputs)
        except Exception as error:
            log.warning("run failed: %s", error)
            raise Internal(f"execution failed: {_first_line(error)}") from error

    def _runner(self) -> Callable[[Mapping[str, Array], Sequence[str]], list[Array]]:
        """Returns how to run; nothing that holds this object, so that it goes with its last holder."""
        if "BF16" not in {spec.datatype for spec in (*self.inputs, *self.outputs)}:
            return partial(_run_maps, self._session, self.classes) if self.classes else partial(_run, self._session)
        if self.classes or any(spec.datatype == "BYTES" for spec in self.inputs):
            raise LoadError("expected no text inputs and no maps beside BF16 tensors: onnxruntime runs no such model")
        return partial(_run_values, self._session)


def _run(session: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
    # The Python wrapper around it checks what the signature has settled already.
    result: list[Array] = session._sess.run(outputs, inputs, None)
    return result


def _run_values(session: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
    """Runs on onnxruntime's own values: it does not know numpy's bfloat16, but takes its bits."""
    values = {name: _value(array) for name, array in inputs.items()}
    return [_array(value) for value in session.run_with_ort_values(outputs, values)]


def _run_maps(
    session: Any, classes: dict[str, tuple[str, ...]], inputs: Mapping[str, Array], outputs: Sequence[str]
) -> list[Array]:
    """Runs, and makes tables of maps: FP32 [number of maps, number of classes]."""
    results: list[Any] = _run(session, inputs, outputs)
    for index, name in enumerate(outputs):
        if name in classes:
            rows = results[index]
            if rows and not classes[name]:
                classes[name] = tuple(map(str, rows[0]))
            table = np.array([list(row.values()) for row in rows], np.float32)
            results[index] = table.reshape(len(rows), len(classes[name]))
    return results


def _opened(path: Path, settings: SessionSettings) -> Any:
    offered = onnxruntime.get_available_providers()
    for provider in settings.providers:
        if provider not in offered:
            raise LoadError(f"provider '{provider}': expected one of {offered} as in this build of onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = settings.arena
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATION[settings.optimization])
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
    options.log_severity_level = 4
    providers = [(name, settings.provider_options.get(name, {})) for name in settings.providers]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - any failure of the library means that this file cannot be served
        raise LoadError(f"{path.name} does not load: {_first_line(error).replace(str(path), path.name)}") from None
    used = session.get_providers()
    # A provider whose own libraries are missing is left out without an error.
    missing = [provider for provider in settings.providers if provider not in used]
    if missing:
        raise LoadError(f"provider '{missing[0]}' does not start: are its libraries and its device here?")
    return session


def _spec(value: Any, free: frozenset[str], optional: bool = False) -> TensorSpec:
    if value.type in MAPS:
        return TensorSpec(value.name, "FP32", (-1, -1))
    datatype = DATATYPES.get(value.type)
    if datatype is None:
        raise LoadError(f"tensor {value.name!r}: expected one of {', '.join(DATATYPES)}, received {value.type}")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in value.shape)
    return TensorSpec(value.name, datatype, shape, optional=optional, ranked=value.name not in free)


def _value(array: Array) -> Any:
    if is_bfloat16(array.dtype):
        bits = array.view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> Array:
    if value.element_type() != BFLOAT16:
        array: Array = value.numpy()
        return array
    bits = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bits, FIXED["BF16"]).reshape(value.shape())


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return ORT_PREFIX.sub("", line)[:300]
