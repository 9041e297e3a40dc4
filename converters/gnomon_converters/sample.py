"""The sample: rows that verify a conversion, as the original takes them and as the server will receive them.

Every number travels as FP32: floats are rounded, while whole numbers and truth values must fit exactly, because an
identifier that loses its last digit is another identifier. Text travels as strings, and a missing text is the empty
text; a missing number is NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from gnomon_converters.errors import ConversionError
from gnomon_protos import tensors
from gnomon_protos.tensors import Array

if TYPE_CHECKING:
    import pandas as pd

# The name of the one input of a model that takes a matrix.
MATRIX: Final = "input"


@dataclass(frozen=True)
class Sample:
    """Rows of a DataFrame (one tensor a column, [rows, 1]) or of a matrix (one tensor, [rows, features])."""

    # What the original gets: the caller's DataFrame or array.
    data: Any
    # What the server gets, by input name: float32, or objects that are str.
    tensors: Mapping[str, Array]
    # Whether float32 holds every number of the sample exactly.
    exact: bool
    # Whether the caller's own numbers are float32, so that the original reckons in float32 too.
    single: bool

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.tensors.values())))

    @property
    def named(self) -> bool:
        """Whether it is a DataFrame, with one tensor a column."""
        return hasattr(self.data, "columns")

    def digest(self) -> str:
        """Returns "sha256:..." over names, datatypes, shapes and contents of the tensors."""
        digest = hashlib.sha256()
        for name, array in self.tensors.items():
            digest.update(f"{name} {tensors.datatype_of(array)} {array.shape}\n".encode())
            digest.update(tensors.to_raw(array))
        return f"sha256:{digest.hexdigest()}"


def read(data: Any, features: Sequence[str] | None) -> Sample:
    """Returns a pandas DataFrame or a two-dimensional array as a sample.

    Of a DataFrame, only the columns in `features` are taken, in that order, unless it is None. Raises ConversionError
    for no rows, missing columns, and data that no tensor can carry.
    """
    if hasattr(data, "columns"):
        return _from_frame(data, features)
    array = np.asarray(data)
    if array.ndim != 2 or not array.size:
        raise ConversionError(
            f"sample: expected a DataFrame or an array [rows, features] with rows, received {array.shape}"
        )
    tensor = _tensor(MATRIX, array)
    return Sample(array, {MATRIX: tensor}, _exact(array, tensor), array.dtype == np.float32)


def _from_frame(frame: pd.DataFrame, features: Sequence[str] | None) -> Sample:
    frame = frame[_columns(frame, features)]
    if not frame.size:
        raise ConversionError(f"sample: expected rows and columns, received {len(frame)} x {len(frame.columns)}")
    given = {str(name): _values(str(name), frame[name]) for name in frame.columns}
    carried = {name: _tensor(name, values[:, np.newaxis]) for name, values in given.items()}
    exact = all(_exact(values[:, np.newaxis], carried[name]) for name, values in given.items())
    single = all(values.dtype in (np.float32, object) for values in given.values())
    return Sample(frame, carried, exact, single)


def _columns(frame: pd.DataFrame, features: Sequence[str] | None) -> list[str]:
    names = list(frame.columns)
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong or len(set(names)) < len(names):
        raise ConversionError(f"sample: expected columns with distinct names, received {names[:20]}")
    absent = [name for name in features or () if name not in names]
    if absent:
        raise ConversionError(f"sample: expected column {absent[0]!r} as in training, received {', '.join(names)}")
    return list(features) if features is not None else names


def _values(name: str, column: pd.Series[Any]) -> Array:
    """Returns a column as numbers, or as objects that are str with "" for a missing one."""
    if column.dtype == object:
        column = column.infer_objects()
    kind = getattr(column.dtype, "kind", "O")
    if kind in "biuf":
        # A column of pandas' own integers or booleans may lack values, which only a float can say.
        return column.to_numpy(np.float64, na_value=np.nan) if column.hasnans else column.to_numpy()
    if kind not in "OTU":
        reason = f"expected numbers or text, received {column.dtype}"
        raise ConversionError(f"column {name!r}: {reason}: make it a number of seconds, days or the like")
    missing = column.isna().to_numpy()
    values = column.to_numpy(object, copy=True)
    values[missing] = ""
    return values


def _tensor(name: str, array: Array) -> Array:
    """Returns values as the tensor that carries them; raises ConversionError for those that none can carry."""
    if array.dtype.kind in "OTU":
        return _text(name, array)
    if array.dtype.kind not in "biuf":
        raise ConversionError(f"input {name!r}: expected numbers or text, received {array.dtype}")
    with np.errstate(over="ignore"):
        tensor = array.astype(np.float32)
    wrong = tensor.astype(np.float64) != array if array.dtype.kind in "biu" else np.isinf(tensor) & np.isfinite(array)
    if np.any(wrong):
        shown = array[wrong][0]
        reason = f"expected numbers that FP32 can hold, received {shown}"
        raise ConversionError(f"input {name!r}: {reason}: train without it, or with it as text or scaled")
    return tensor


def _text(name: str, array: Array) -> Array:
    values = array.astype(object)
    for value in values.ravel():
        if not isinstance(value, str):
            reason = f"expected text in every row, received {type(value).__name__} {str(value)[:40]!r}"
            raise ConversionError(f"input {name!r}: {reason}: use a DataFrame with one kind of value a column")
    return values


def _exact(values: Array, tensor: Array) -> bool:
    """Whether the tensor holds the same numbers; text always does."""
    return values.dtype.kind not in "biuf" or bool(np.array_equal(values, tensor, equal_nan=True))
