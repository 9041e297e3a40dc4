"""Casting of what a caller gives to the datatype that a model declares, without losing anything unseen.

Allowed are integers to any integer type that holds every value, integers, booleans and floats to any float type whose
range holds every value, booleans to any number, and text to BYTES. Everything else raises InputError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gnomon_client.errors import InputError
from gnomon_protos.tensors import FIXED, Array, TensorError, datatype_of, is_bfloat16, widened


def cast(values: Array, datatype: str, where: str) -> Array:
    """Returns an array as one of the protocol's `datatype`, of the same shape; the same array where nothing changes.

    Raises InputError, whose text begins with `where`.
    """
    if datatype == "BYTES":
        return _text(values, where)
    target = FIXED.get(datatype)
    if target is None:
        hint = "; pip install ml_dtypes" if datatype == "BF16" else ""
        raise InputError(f"{where}: the model declares datatype {datatype}, which this client cannot send{hint}")
    if values.dtype == target:
        return values
    if values.dtype == object:
        values = _natural(values)
    if values.size == 0:
        return np.empty(values.shape, target)
    shown, values = values, widened(values)
    source = values.dtype.kind
    if target.kind in "iu" and source in "iu":
        return _integers(values, target, datatype, where)
    if source not in "biuf" or not np.can_cast(values.dtype, target, "same_kind"):
        hint = "; round and cast it first" if source == "f" and target.kind in "iu" else ""
        raise InputError(f"{where}: expected {datatype}, received {received(shown)}{hint}")
    floating = target.kind == "f" or is_bfloat16(target)
    return _floats(values, target, datatype, where) if floating else values.astype(target)


def received(values: Array) -> str:
    """Returns how an error names the type of an array: the protocol's datatype where it has one, `text`, or numpy's."""
    try:
        datatype = datatype_of(values)
    except TensorError:
        return str(values.dtype)
    if datatype != "BYTES":
        return datatype
    if values.dtype != object:
        return "text"
    odd = next((item for item in values.ravel() if not isinstance(item, int | float)), 0)
    if isinstance(odd, int):
        return "integers of more than 64 bits"
    return "text" if isinstance(odd, str | bytes) else f"a value of type {type(odd).__name__}"


def _natural(values: Array) -> Array:
    """Returns an array of Python objects as numpy types them; unchanged where it has no type for them."""
    try:
        natural = np.array(values.tolist())
    except (ValueError, OverflowError):
        return values
    return natural if natural.shape == values.shape else values


def _integers(values: Array, target: np.dtype[Any], datatype: str, where: str) -> Array:
    limits = np.iinfo(target)
    # As Python numbers: no integer type of numpy holds both ends of INT64 and UINT64.
    if limits.min <= int(values.min()) and int(values.max()) <= limits.max:
        return values.astype(target)
    index = next(i for i, value in enumerate(values.ravel().tolist()) if not limits.min <= value <= limits.max)
    raise InputError(f"{where}: element {index}: expected {datatype}, received {values.ravel()[index]}")


def _floats(values: Array, target: np.dtype[Any], datatype: str, where: str) -> Array:
    with np.errstate(over="ignore"):
        result = values.astype(target)
    wrong = np.flatnonzero(np.isinf(result) & np.isfinite(values))
    if wrong.size:
        raise InputError(f"{where}: element {wrong[0]}: expected {datatype}, received {values.ravel()[wrong[0]]}")
    return result


def _text(values: Array, where: str) -> Array:
    if values.dtype.kind in "SUT" or values.size == 0:
        return values.astype(object)
    if values.dtype != object:
        raise InputError(f"{where}: expected BYTES, received {received(values)}")
    for index, element in enumerate(values.ravel()):
        if not isinstance(element, str | bytes):
            message = f"{where}: element {index}: expected text for BYTES, received {type(element).__name__}"
            raise InputError(message)
    return values
