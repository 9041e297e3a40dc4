"""The table of frameworks: which module converts which model.

To add a framework, write a module with the functions of `Converter` and add one line to CONVERTERS: the top-level
package that the classes of its models come from, and the module.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from gnomon_converters.errors import ConversionError
from gnomon_converters.sample import Sample
from gnomon_protos.tensors import Array

CONVERTERS: Final[Mapping[str, str]] = {
    "sklearn": "gnomon_converters.scikit_learn",
}


@dataclass(frozen=True)
class Expected:
    """What the original itself gives for one output, over all rows of the sample."""

    name: str
    # "label", "probabilities" or "value".
    meaning: str
    values: Array
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Original:
    """What the original answers to the sample, and how good that is."""

    # In the order in which the converted model has them.
    outputs: tuple[Expected, ...]
    metrics: Mapping[str, float]


class Converter(Protocol):
    """What the module of a framework offers."""

    # Distributions whose versions belong into the manifest.
    PACKAGES: tuple[str, ...]

    def feature_names(self, model: Any) -> tuple[str, ...] | None:
        """Returns the columns that the model was trained on, in its order; None if it knows no names."""

    def original(self, model: Any, sample: Sample, labels: Array | None) -> Original:
        """Runs the model itself on the sample; raises ConversionError if it is of no kind that can be served."""

    def conversions(self, model: Any, sample: Sample, original: Original) -> Iterator[bytes]:
        """Yields the model as ONNX, in several ways if there are several, the best first.

        Inputs bear the names of the sample's tensors, outputs those of `original`; text comes in as strings, every
        number as FP32. Raises ConversionError for a model that cannot be converted.
        """


def converter_of(model: object) -> Converter:
    """Returns the converter for a model, by the classes that it descends from; raises ConversionError for none."""
    for cls in type(model).__mro__:
        module = CONVERTERS.get(cls.__module__.partition(".")[0])
        if module is not None:
            return _load(module)
    raise ConversionError(f"expected a model of {', '.join(CONVERTERS)}, received {type_name(model)}")


def type_name(model: object) -> str:
    """Returns the full name of a model's class, such as "sklearn.pipeline.Pipeline"."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _load(module: str) -> Converter:
    try:
        return cast("Converter", importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise missing(error) from None


def missing(error: ModuleNotFoundError) -> ConversionError:
    """Returns the error that tells how to install what a conversion needs."""
    return ConversionError(f"{error.name} is needed to convert a model: pip install 'gnomon[convert]'")
