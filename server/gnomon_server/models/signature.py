"""The signature of a version: which tensors go in and come out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TensorSpec:
    """One declared tensor; -1 in its shape is a free dimension."""

    name: str
    # FP32, INT64, BYTES, ...: the Open Inference Protocol's names.
    datatype: str
    shape: tuple[int, ...]
    # "label", "probabilities", "value", "embedding", "ranking", "feature" or empty.
    meaning: str = ""
    classes: tuple[str, ...] = ()
    # Whether a request may leave it out.
    optional: bool = False
    # Whether its rank is known; without one the shape is empty, and any is accepted.
    ranked: bool = True

    @property
    def expected(self) -> str:
        """What an error says that a shape should be."""
        return f"shape {list(self.shape)}" if self.ranked else "a shape"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a complete shape is one that the tensor declares."""
        if not self.ranked:
            return all(given >= 0 for given in shape)
        return len(shape) == len(self.shape) and all(
            given >= 0 and declared in (-1, given) for given, declared in zip(shape, self.shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """The tensors of a version, in its own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Whether the first dimensions of the inputs are one, if they are free; a model may have several sizes.
    aligned: bool = True

    @cached_property
    def required(self) -> tuple[TensorSpec, ...]:
        """The inputs that a request must give."""
        return tuple(spec for spec in self.inputs if not spec.optional)

    @cached_property
    def batched(self) -> bool:
        """Whether every tensor begins with a free dimension, so that its first dimension can be a batch."""
        return self.aligned and all(spec.shape[:1] == (-1,) for spec in (*self.required, *self.outputs))

    @cached_property
    def input_specs(self) -> dict[str, TensorSpec]:
        """The inputs by name."""
        return {spec.name: spec for spec in self.inputs}

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(spec.name for spec in self.outputs)
