"""Membership: which rows of the inputs lie in the segments that a policy declares."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any, Final

import numpy as np

from gnomon_protos.tensors import Array, widened
from gnomon_server.errors import InvalidRequest, LoadError
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.predicates import Condition, parse
from gnomon_server.shadow.comparators import Flags

_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Membership:
    """The segments of one model, by their predicates."""

    def __init__(self, segments: Iterable[str], signature: Signature) -> None:
        """Raises LoadError where a predicate names what the model is not asked for, or compares it with another kind.

        The signature is the shadow's, whose inputs have the primary's names.
        """
        self._segments = {text: _parsed(text) for text in segments}
        specs = {spec.name: spec for spec in signature.inputs}
        for text, conditions in self._segments.items():
            for condition in conditions:
                _check(condition, specs, f"segment {text!r}")

    def of(self, inputs: Mapping[str, Array], rows: int, rowwise: bool) -> dict[str, Flags]:
        """Returns which of the rows each segment holds, by its predicate; where they cannot be told apart it is one."""
        sides = {name: array if rowwise else array[np.newaxis] for name, array in inputs.items()}
        return {text: _held(conditions, sides, rows) for text, conditions in self._segments.items()}


def _parsed(text: str) -> tuple[Condition, ...]:
    try:
        return parse(text)
    except InvalidRequest as error:
        raise LoadError(f"segment {text!r}: {error}") from None


def _held(conditions: Iterable[Condition], inputs: Mapping[str, Array], rows: int) -> Flags:
    held: Flags = np.logical_and.reduce([_rows(one, inputs.get(one.name), rows) for one in conditions])
    return held


def _rows(condition: Condition, array: Array | None, rows: int) -> Flags:
    column = condition.column or 0
    if array is None or column >= prod(array.shape[1:]):
        # A row that lacks the column is in no segment of it.
        return np.zeros(rows, np.bool_)
    values = array.reshape(rows, -1)[:, column] if rows else array.reshape(-1)
    values = values if values.dtype.kind == "O" else widened(values).astype(np.float64)
    return np.asarray(_COMPARE[condition.operator](values, condition.value), np.bool_)


def _check(condition: Condition, specs: Mapping[str, TensorSpec], where: str) -> None:
    spec = specs.get(condition.name)
    if spec is None:
        raise LoadError(f"{where}: expected one of the inputs {list(specs)}, received {condition.name!r}")
    expected = {"BYTES": str, "BOOL": bool}.get(spec.datatype, float)
    if type(condition.value) is not expected:
        kind = {str: "a 'text'", bool: "true or false", float: "a number"}[expected]
        raise LoadError(f"{where}: input {spec.name!r} of {spec.datatype}: expected {kind}, received {condition.value}")
    # Without the dimension of rows, if there is one.
    inner = spec.shape[1:]
    columns = -1 if -1 in inner or not spec.ranked else prod(inner)
    if condition.column is None and columns != 1:
        raise LoadError(f"{where}: input {spec.name!r} of shape {list(spec.shape)}: expected a column, {spec.name}[0]")
    if condition.column is not None and 0 <= columns <= condition.column:
        most = f"a column from 0 to {columns - 1}"
        raise LoadError(f"{where}: input {spec.name!r}: expected {most}, received {condition.column}")
