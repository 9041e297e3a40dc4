"""The converter of scikit-learn's estimators and pipelines, by skl2onnx.

A classifier gives `label` [-1] and, if it has predict_proba, `probabilities` [-1, classes]; a regressor gives `value`
[-1, targets]. An output whose name is also a column's is called `predicted_label` and so on.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnx
import sklearn.metrics
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import is_classifier, is_regressor
from sklearn.compose import ColumnTransformer

from gnomon_converters import graph
from gnomon_converters.errors import ConversionError, first_line
from gnomon_converters.frameworks import Expected, Original, type_name
from gnomon_converters.precision import Rounding, precise
from gnomon_converters.sample import MATRIX, Sample
from gnomon_protos.tensors import Array

PACKAGES: Final = ("scikit-learn", "skl2onnx")


def feature_names(model: Any) -> tuple[str, ...] | None:
    """Returns the columns that the model was trained on, in its order; None if it was trained on arrays."""
    names = getattr(model, "feature_names_in_", None)
    return None if names is None else tuple(str(name) for name in names)


def original(model: Any, sample: Sample, labels: Array | None) -> Original:
    """Runs the model itself on the sample; raises ConversionError if it is neither a classifier nor a regressor."""
    if not is_classifier(model) and not is_regressor(model):
        raise ConversionError(f"expected a classifier or a regressor, received {type_name(model)}")
    predicted = np.asarray(_answer(model, "predict", sample))
    if is_regressor(model):
        value = Expected(_free("value", sample), "value", predicted)
        return Original((value,), _regression_metrics(labels, predicted))
    classes = getattr(model, "classes_", ())
    if predicted.ndim != 1:
        raise ConversionError(f"expected a classifier with one label a row, received labels of {predicted.shape}")
    names = tuple(str(name) for name in _labels(np.asarray(classes)))
    label = Expected(_free("label", sample), "label", _labels(predicted), names)
    if not hasattr(model, "predict_proba"):
        return Original((label,), _classification_metrics(labels, label, None))
    likely = np.asarray(_answer(model, "predict_proba", sample))
    probabilities = Expected(_free("probabilities", sample), "probabilities", likely, names)
    return Original((label, probabilities), _classification_metrics(labels, label, likely))


def conversions(model: Any, sample: Sample, original: Original) -> Iterator[bytes]:
    """Yields the model as ONNX, once for each way of rounding that gives a different file.

    Where float32 holds the sample exactly, a threshold rounded down decides every row as in float64. Where it does
    not, a value that equals its threshold stays on its side only if both are rounded alike.
    """
    first = Rounding.DOWN if sample.exact else Rounding.NEAREST
    seen: set[bytes] = set()
    for rounding in (first, *(other for other in Rounding if other is not first)):
        converted = _convert(model, sample, original, rounding)
        if converted not in seen:
            seen.add(converted)
            yield converted


def _convert(model: Any, sample: Sample, original: Original, rounding: Rounding) -> bytes:
    joined = sample.named and not _selects_columns(model)
    if joined and len({array.dtype for array in sample.tensors.values()}) > 1:
        raise ConversionError("expected a pipeline that begins with a ColumnTransformer for text beside numbers")
    types = _types(sample, joined)
    options = {id(model): {"zipmap": False}} if _has_zipmap(model) else None
    try:
        # Deprecations between skl2onnx, onnx and protobuf, which a user cannot mend; what counts is verified after.
        with warnings.catch_warnings(), precise(rounding, single=sample.single):
            warnings.simplefilter("ignore")
            converted = convert_sklearn(model, name="gnomon", initial_types=types, options=options)
    except ConversionError:
        raise
    except Exception as error:  # noqa: BLE001 - skl2onnx raises what it likes for a model that it cannot convert
        raise ConversionError(f"skl2onnx cannot convert {type_name(model)}: {first_line(error)}") from None
    return _finish(converted, sample, original, joined=joined)


def _finish(converted: onnx.ModelProto, sample: Sample, original: Original, *, joined: bool) -> bytes:
    """Names the tensors as declared, and leaves out what the original does not say."""
    names = [expected.name for expected in original.outputs]
    del converted.graph.output[len(names) :]
    graph.rename_outputs(converted.graph, names)
    if joined:
        graph.split_input(converted.graph, list(sample.tensors))
    else:
        graph.rename_inputs(converted.graph, list(sample.tensors))
    # A random name inside would give the same model another digest each time.
    converted.graph.name = "gnomon"
    result: bytes = converted.SerializeToString(deterministic=True)
    return result


def _types(sample: Sample, joined: bool) -> list[tuple[str, Any]]:
    if joined:
        return [(MATRIX, _type(next(iter(sample.tensors.values())), len(sample.tensors)))]
    return [(name, _type(array, array.shape[1])) for name, array in sample.tensors.items()]


def _type(array: Array, width: int) -> Any:
    return (StringTensorType if array.dtype == object else FloatTensorType)([None, width])


def _selects_columns(model: Any) -> bool:
    """Whether any part picks columns by itself, which skl2onnx follows only from separate inputs."""
    parts = (model, *model.get_params(deep=True).values())
    return any(isinstance(part, ColumnTransformer) for part in parts)


def _has_zipmap(model: Any) -> bool:
    return is_classifier(model) and hasattr(model, "predict_proba")


def _free(name: str, sample: Sample) -> str:
    return name if name not in sample.tensors else f"predicted_{name}"


def _answer(model: Any, method: str, sample: Sample) -> Any:
    try:
        with warnings.catch_warnings():
            # Names that one of model and sample lacks: columns are then taken by position, as the caller wants.
            warnings.filterwarnings("ignore", "X (has|does not have valid) feature names", UserWarning)
            warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
            return getattr(model, method)(sample.data)
    except Exception as error:  # noqa: BLE001 - a model may hold any code; its failure is the caller's to read
        raise ConversionError(f"the model itself fails on the sample in {method}: {first_line(error)}") from None


def _labels(values: Array) -> Array:
    """Returns labels as the converted model gives them: int64 or str objects."""
    if values.dtype.kind in "OTU" and all(isinstance(value, str) for value in values):
        return values.astype(object)
    if values.dtype.kind in "biuf" and np.array_equal(values, values.astype(np.int64)):
        return values.astype(np.int64)
    raise ConversionError(f"expected classes that are text or whole numbers, received {values[:5].tolist()}")


def _classification_metrics(labels: Array | None, label: Expected, likely: Array | None) -> dict[str, float]:
    if labels is None:
        return {}
    truth = np.array([str(value) for value in _labels(labels)], object)
    said = np.array([str(value) for value in label.values], object)
    metrics = {"accuracy": float(np.mean(truth == said))}
    known = len(label.classes) == 2 and set(truth) == set(label.classes)
    if likely is not None and known:
        metrics["roc_auc"] = float(sklearn.metrics.roc_auc_score(truth == label.classes[1], likely[:, 1]))
    return metrics


def _regression_metrics(labels: Array | None, values: Array) -> dict[str, float]:
    if labels is None:
        return {}
    with contextlib.suppress(ValueError):
        errors = np.abs(labels.astype(np.float64).reshape(values.shape) - values)
        mean, square = float(np.mean(errors)), float(np.mean(np.square(errors)))
        return {"mean_absolute_error": mean, "root_mean_squared_error": math.sqrt(square)}
    raise ConversionError(f"labels: expected numbers of shape {values.shape}, received {labels.dtype} {labels.shape}")
