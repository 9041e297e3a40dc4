"""The precision of a conversion: skl2onnx's converters, corrected where float32 changes what a model decides.

- Scalers: skl2onnx rounds mean and scale to float32, and a forest behind them, whose thresholds may fall on values,
  then takes the other branch (differences of 0.05). Here the constants stay float64, and so does the arithmetic.
- HistGradientBoosting: its thresholds are float64 and compared with x <= t. For a float32 x that is x <= t rounded
  down to float32; skl2onnx rounds to nearest. Its native categories are not converted at all, without a word.
- Text: skl2onnx writes a missing category as the text "nan", and imputes no missing text. Here "" is missing text.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from onnx import TensorProto
from skl2onnx.common import _registration as registry
from skl2onnx.common.data_types import StringTensorType
from skl2onnx.operator_converters.common import concatenate_variables

from gnomon_converters.errors import ConversionError
from gnomon_protos.tensors import Array

Convert = Callable[[Any, Any, Any], None]
# The registry is the process's own: one conversion at a time may have its converters in it.
_LOCK: Final = threading.Lock()


class Rounding(enum.Enum):
    """How a float64 threshold becomes float32."""

    DOWN = "down"
    NEAREST = "nearest"


class _Missing(float):
    """NaN that skl2onnx writes as the empty text."""

    def __str__(self) -> str:
        return ""


@contextlib.contextmanager
def precise(rounding: Rounding, *, single: bool) -> Iterator[None]:
    """Puts the corrected converters into skl2onnx for the time of one conversion.

    With `single`, scalers round to float32 after each step, as scikit-learn does for float32 data.
    """
    with _LOCK:
        before = dict(registry._converter_pool)
        try:
            for name, convert in _converters(before, rounding, single).items():
                options = before[name].get_allowed_options()
                registry._converter_pool[name] = registry.RegisteredConverter(convert, options)
            yield
        finally:
            registry._converter_pool.update(before)


def _converters(before: Mapping[str, Convert], rounding: Rounding, single: bool) -> dict[str, Convert]:
    def scaler(scope: Any, operator: Any, container: Any) -> None:
        _add_scaler(scope, operator, container, single)

    def trees(name: str) -> Convert:
        def convert(scope: Any, operator: Any, container: Any) -> None:
            with _as(operator, _rounded(operator.raw_operator, rounding)):
                before[name](scope, operator, container)

        return convert

    def text(name: str) -> Convert:
        def convert(scope: Any, operator: Any, container: Any) -> None:
            if not isinstance(operator.inputs[0].type, StringTensorType):
                return before[name](scope, operator, container)
            with _as(operator, _with_missing_text(operator.raw_operator)):
                return before[name](scope, operator, container)

        return convert

    scalers = ("SklearnScaler", "SklearnRobustScaler", "SklearnMaxAbsScaler", "SklearnMinMaxScaler")
    forests = ("SklearnHistGradientBoostingClassifier", "SklearnHistGradientBoostingRegressor")
    texts = ("SklearnOneHotEncoder", "SklearnOrdinalEncoder", "SklearnSimpleImputer")
    return {
        **dict.fromkeys(scalers, scaler),
        **{name: trees(name) for name in forests},
        **{name: text(name) for name in texts},
    }


@contextlib.contextmanager
def _as(operator: Any, stand_in: Any) -> Iterator[None]:
    """Shows skl2onnx another estimator for the time of its converter."""
    real = operator.raw_operator
    operator.raw_operator = stand_in
    try:
        yield
    finally:
        operator.raw_operator = real


def _add_scaler(scope: Any, operator: Any, container: Any, single: bool) -> None:
    """Adds an affine scaler that reckons in float64, with every constant as it was fitted."""
    data = concatenate_variables(scope, operator.inputs, container)
    data = _cast(scope, container, data, TensorProto.DOUBLE)
    for op, constant in _steps(operator.raw_operator, single):
        name = scope.get_unique_variable_name("constant")
        container.add_initializer(name, TensorProto.DOUBLE, list(constant.shape), constant.ravel().tolist())
        data = _node(scope, container, op, [data, name])
        if single:
            data = _cast(scope, container, data, TensorProto.FLOAT)
            data = _cast(scope, container, data, TensorProto.DOUBLE)
    _cast(scope, container, data, TensorProto.FLOAT, operator.outputs[0].full_name)


def _steps(scaler: Any, single: bool) -> list[tuple[str, Array]]:
    """Returns the steps of a fitted scaler as scikit-learn takes them, each an operator and its constant."""
    if hasattr(scaler, "data_min_"):
        low, high = scaler.feature_range
        clip = [("Max", low), ("Min", high)] if scaler.clip else []
        steps = [("Mul", scaler.scale_), ("Add", scaler.min_), *clip]
    elif hasattr(scaler, "mean_"):
        steps = [("Sub", scaler.mean_ if scaler.with_mean else None), ("Div", scaler.scale_)]
        if single:
            # This scaler alone brings its constants to the type of the data (scikit-learn 1.9, StandardScaler).
            steps = [(op, constant if constant is None else constant.astype(np.float32)) for op, constant in steps]
    else:
        steps = [("Sub", getattr(scaler, "center_", None)), ("Div", scaler.scale_)]
    return [(op, np.atleast_1d(np.asarray(constant, np.float64))) for op, constant in steps if constant is not None]


def _cast(scope: Any, container: Any, data: str, to: int, output: str | None = None) -> str:
    return _node(scope, container, "Cast", [data], output, to=to)


def _node(scope: Any, container: Any, op: str, inputs: list[str], output: str | None = None, **attributes: int) -> str:
    output = output or scope.get_unique_variable_name("scaled")
    container.add_node(op, inputs, [output], name=scope.get_unique_operator_name(op), op_version=13, **attributes)
    return output


def _rounded(model: Any, rounding: Rounding) -> Any:
    """Returns a HistGradientBoosting model whose thresholds are float32; raises ConversionError for categories."""
    if getattr(model, "is_categorical_", None) is not None and np.any(model.is_categorical_):
        reason = f"{type(model).__name__} with categorical_features cannot be converted"
        raise ConversionError(f"{reason}: encode the columns in the pipeline, for example by OrdinalEncoder")
    model = copy.copy(model)
    if rounding is Rounding.DOWN:
        model._predictors = [[_rounded_down(tree) for tree in trees] for trees in model._predictors]
    return model


def _rounded_down(tree: Any) -> Any:
    tree = copy.copy(tree)
    tree.nodes = tree.nodes.copy()
    tree.nodes["num_threshold"] = round_down(tree.nodes["num_threshold"])
    return tree


def round_down(values: Array) -> Array:
    """For each float64 t, returns the greatest float32 not above it: for every float32 x, x <= t as x <= that."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _with_missing_text(encoder: Any) -> Any:
    """Returns an encoder or imputer of text for which a missing value is the empty text."""
    encoder = copy.copy(encoder)
    if hasattr(encoder, "categories_"):
        categories = [_with_missing(known) for known in encoder.categories_]
        missing = any(isinstance(value, _Missing) for known in categories for value in known)
        if missing and np.isnan(getattr(encoder, "encoded_missing_value", 0.0)):
            # skl2onnx would number it like a category.
            reason = f"{type(encoder).__name__} that leaves missing text missing cannot be converted"
            raise ConversionError(f"{reason}: train it with encoded_missing_value=-1")
        encoder.categories_ = categories
    elif not isinstance(encoder.missing_values, str):
        encoder.missing_values = ""
    return encoder


def _with_missing(categories: Array) -> Array:
    result = categories.astype(object)
    for index, value in enumerate(result):
        if value is None or value != value:  # noqa: PLR0124 - NaN alone is not itself
            result[index] = _Missing("nan")
    return result
