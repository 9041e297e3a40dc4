"""The run of a converted model in onnxruntime, as the server runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gnomon_converters.errors import ConversionError, first_line
from gnomon_protos.tensors import Array

# Rows a run: some converted models hold a matrix of rows by training rows.
ROWS: Final = 1024
DATATYPES: Final = {"tensor(float)": "FP32", "tensor(int64)": "INT64", "tensor(string)": "BYTES"}


@dataclass(frozen=True)
class Port:
    """One tensor that a model takes or gives; -1 in its shape is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Runtime:
    """A converted model, loaded."""

    def __init__(self, model: bytes) -> None:
        """Loads a serialized ONNX model; raises ConversionError if onnxruntime refuses it."""
        # onnxruntime reports home from 1.29 on unless this is set before its import.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - any failure of the library means that this model cannot be served
            raise ConversionError(f"the converted model does not load: {first_line(error)}") from None
        self.inputs = tuple(_port(value) for value in self._session.get_inputs())
        self.outputs = tuple(_port(value) for value in self._session.get_outputs())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns every output for the inputs; raises ConversionError if the model fails on them."""
        names = [port.name for port in self.outputs]
        rows = len(next(iter(inputs.values())))
        parts = [
            self._run(names, {name: array[start : start + ROWS] for name, array in inputs.items()})
            for start in range(0, rows, ROWS)
        ]
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}

    def run_alone(self, inputs: Mapping[str, Array], most: int) -> dict[str, Array]:
        """Returns every output for at most so many rows, each of which runs by itself; raises ConversionError."""
        names = [port.name for port in self.outputs]
        rows = min(most, len(next(iter(inputs.values()))))
        parts = [self._run(names, {name: array[i : i + 1] for name, array in inputs.items()}) for i in range(rows)]
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}

    def _run(self, names: list[str], inputs: Mapping[str, Array]) -> list[Array]:
        try:
            result: list[Array] = self._session.run(names, dict(inputs))
        except Exception as error:  # noqa: BLE001 - as above
            raise ConversionError(f"the converted model loads and does not run: {first_line(error)}") from None
        return result


def _port(value: Any) -> Port:
    datatype = DATATYPES.get(value.type)
    if datatype is None:
        raise ConversionError(f"tensor {value.name!r}: expected one of {', '.join(DATATYPES)}, received {value.type}")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in value.shape)
    return Port(value.name, datatype, shape)
