"""The inputs of a request: what a caller gives, as arrays of the types that the model declares."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from gnomon_client.casting import cast
from gnomon_client.errors import InputError
from gnomon_client.metadata import ModelMetadata, TensorMetadata
from gnomon_protos.tensors import Array

if TYPE_CHECKING:
    import pandas as pd

    # An array or (nested) list for a model's only input; arrays, lists or Series by input name; or named columns.
    Inputs = ArrayLike | Mapping[str, ArrayLike | pd.Series[Any]] | pd.DataFrame


def arrays_of(inputs: Inputs, model: ModelMetadata) -> list[tuple[TensorMetadata, Array]]:
    """Returns the model's inputs in its own order, each with its array.

    Raises InputError for missing or unknown names and for values that do not fit the declared datatype. Shapes are
    the server's to judge, but for columns: n values for an input of shape [-1, 1] become [n, 1].
    """
    where = f"model '{model.name}'"
    if _is_frame(inputs):
        return _from_frame(inputs, model, where)
    if isinstance(inputs, Mapping):
        _check_names(list(inputs), [spec.name for spec in model.inputs], where)
        return [(spec, _from_value(inputs[spec.name], spec, where)) for spec in model.inputs]
    if len(model.inputs) != 1:
        names = [spec.name for spec in model.inputs]
        message = f"{where}: expected inputs {names} as a mapping or a DataFrame, received one {type(inputs).__name__}"
        raise InputError(message)
    return [(model.inputs[0], _from_value(inputs, model.inputs[0], where))]


def _check_names(received: Sequence[object], expected: Sequence[str], where: str) -> None:
    for name in received:
        if name not in expected:
            raise InputError(f"{where}: input {name!r}: expected one of {expected}, received {name!r}")
    if len(received) != len(expected):
        raise InputError(f"{where}: expected inputs {expected}, received {list(received)}")


def _from_value(value: Any, spec: TensorMetadata, where: str) -> Array:
    where = f"{where}: input '{spec.name}'"
    if _is_series(value):
        return _as_column(_from_series(value, spec, where), spec)
    if isinstance(value, np.ndarray):
        return cast(value, spec.datatype, where)
    try:
        # Objects keep the NULs at the end of bytes, which numpy's own text types drop.
        array = np.array(value, object) if spec.datatype == "BYTES" else np.asarray(value)
    except (ValueError, TypeError) as error:
        shown = "rows of different lengths" if isinstance(value, list | tuple) else f"a {type(value).__name__}"
        raise InputError(f"{where}: expected {spec.datatype} {list(spec.shape)}, received {shown}") from error
    return _as_column(cast(array, spec.datatype, where), spec)


def _as_column(array: Array, spec: TensorMetadata) -> Array:
    """Returns n plain values as [n, 1] where the input is one column of a table."""
    return array.reshape(-1, 1) if array.ndim == 1 and spec.shape == (-1, 1) else array


def _from_frame(frame: pd.DataFrame, model: ModelMetadata, where: str) -> list[tuple[TensorMetadata, Array]]:
    columns = [str(name) for name in frame.columns]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: column '{twice}': expected once, received {columns.count(twice)} times")
    if len(model.inputs) == 1 and model.inputs[0].name not in columns and len(model.inputs[0].shape) == 2:
        return [(model.inputs[0], _stacked(frame, columns, model.inputs[0], where))]
    names = [spec.name for spec in model.inputs]
    if any(name not in columns for name in names):
        raise InputError(f"{where}: expected columns {names}, received {columns}")
    return [
        (spec, _column_input(frame.iloc[:, columns.index(spec.name)], spec, f"{where}: column '{spec.name}'"))
        for spec in model.inputs
    ]


def _stacked(frame: pd.DataFrame, columns: Sequence[str], spec: TensorMetadata, where: str) -> Array:
    """Returns all columns, in the frame's order, side by side as [n, number of columns]."""
    if spec.shape[1] not in (-1, len(columns)):
        message = f"{where}: input '{spec.name}': expected {spec.shape[1]} columns, received {len(columns)}: {columns}"
        raise InputError(message)
    arrays = [
        _from_series(frame.iloc[:, index], spec, f"{where}: column '{name}'") for index, name in enumerate(columns)
    ]
    return np.stack(arrays, axis=1) if arrays else np.empty((len(frame), 0), object)


def _column_input(series: pd.Series[Any], spec: TensorMetadata, where: str) -> Array:
    if len(spec.shape) > 2 or (len(spec.shape) == 2 and spec.shape[1] not in (-1, 1)):
        raise InputError(f"{where}: expected values of shape {list(spec.shape)}, received one column")
    array = _from_series(series, spec, where)
    return array.reshape(-1, 1) if len(spec.shape) == 2 else array


def _from_series(series: pd.Series[Any], spec: TensorMetadata, where: str) -> Array:
    """Returns a column as [n] of the declared datatype; missing values become NaN in floats and raise elsewhere.

    Text has no missing value on the wire, and what stood for it at training only the caller knows.
    """
    missing = np.flatnonzero(series.isna().to_numpy())
    if missing.size and not spec.datatype.startswith(("FP", "BF")):
        hint = "fill it first, for example with .fillna('')" if spec.datatype == "BYTES" else "fill it first"
        raise InputError(f"{where}: expected {spec.datatype}, received a missing value in row {missing[0]}; {hint}")
    if isinstance(series.dtype, np.dtype) and series.dtype.kind != "O":
        return cast(series.to_numpy(), spec.datatype, where)
    values = series.to_numpy(dtype=object, na_value=np.nan) if missing.size else series.to_numpy(dtype=object)
    return cast(values, spec.datatype, where)


def _is_frame(value: object) -> TypeGuard[pd.DataFrame]:
    # A caller that has a DataFrame has imported pandas; the client itself never does.
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def _is_series(value: object) -> TypeGuard[pd.Series[Any]]:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.Series)
