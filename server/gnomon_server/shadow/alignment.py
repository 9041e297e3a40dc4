"""Alignment: a shadow with other names, inputs, units or another order of classes, in its primary's terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import FIXED, Array
from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import AlignSettings, UnitSettings
from gnomon_server.shadow.trial import Shadow

# Of inputs and outputs that have a unit.
CONVERTIBLE: Final = ("FP16", "FP32", "FP64")


class Aligned:
    """A shadow that is asked, and answers, as its primary is; as a Shadow, otherwise.

    Raises LoadError that lists all that the declaration names and the shadow does not have.
    """

    def __init__(self, shadow: Shadow, declared: AlignSettings) -> None:
        _check(shadow.signature, declared)
        self._shadow = shadow
        self._inputs, self._outputs = declared.inputs, declared.outputs
        specs = {spec.name: spec for spec in shadow.signature.inputs}
        self._constants = {name: _constant(specs[name], value) for name, value in declared.constants.items()}
        outputs = {spec.name: spec for spec in shadow.signature.outputs}
        # By the primary's name: the shadow's column of each of the primary's classes.
        self._columns: dict[str, NDArray[np.intp]] = {
            name: np.array([outputs[self._outputs.get(name, name)].classes.index(one) for one in classes])
            for name, classes in declared.classes.items()
        }
        self.model, self.version, self.digest = shadow.model, shadow.version, shadow.digest
        self.coalescable = shadow.coalescable
        self.signature = self._presented(shadow.signature, declared)
        _check_units(self.signature, declared.units)
        self._units = declared.units
        self.comparisons: tuple[Comparison, ...] = tuple(map(self._renamed, shadow.comparisons))

    @property
    def trouble(self) -> str:
        """Why it cannot run at the moment; empty while all is well."""
        return self._shadow.trouble

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the outputs, by the primary's names, for inputs by the primary's names; raises as the shadow does."""
        rows = max((len(array) for array in inputs.values() if array.ndim), default=1)
        asked = {self._inputs.get(name, name): self._converted(name, array) for name, array in inputs.items()}
        for name, (value, free) in self._constants.items():
            asked[name] = np.repeat(value, rows, axis=0) if free else value
        answers = self._shadow.run(asked, [self._outputs.get(name, name) for name in outputs])
        return [
            self._converted_back(name, answer[:, self._columns[name]] if name in self._columns else answer)
            for name, answer in zip(outputs, answers, strict=True)
        ]

    def _converted(self, name: str, array: Array) -> Array:
        """Returns an input in the version's unit, computed in FP64 and rounded once, to the input's datatype."""
        unit = self._units.get(name)
        return array if unit is None else (array.astype(np.float64) * unit.factor + unit.offset).astype(array.dtype)

    def _converted_back(self, name: str, array: Array) -> Array:
        unit = self._units.get(name)
        return array if unit is None else ((array.astype(np.float64) - unit.offset) / unit.factor).astype(array.dtype)

    def _presented(self, own: Signature, declared: AlignSettings) -> Signature:
        inputs, outputs = _turned(declared.inputs), _turned(declared.outputs)
        return Signature(
            tuple(
                replace(spec, name=inputs.get(spec.name, spec.name))
                for spec in own.inputs
                if spec.name not in declared.constants
            ),
            tuple(self._output(spec, outputs.get(spec.name, spec.name), declared) for spec in own.outputs),
        )

    def _output(self, spec: TensorSpec, name: str, declared: AlignSettings) -> TensorSpec:
        return replace(spec, name=name, classes=tuple(declared.classes.get(name, spec.classes)))

    def _renamed(self, comparison: Comparison) -> Comparison:
        names = _turned(self._outputs)
        output, beside = (names.get(name, name) for name in (comparison.output, comparison.probabilities))
        return replace(comparison, output=output, probabilities=beside)


def aligned(shadow: Shadow, declared: Mapping[str, AlignSettings]) -> Shadow:
    """Returns the shadow in its primary's terms, where an alignment of its version is declared; raises LoadError."""
    mine = declared.get(str(shadow.version))
    return shadow if mine is None else Aligned(shadow, mine)


def _check(own: Signature, declared: AlignSettings) -> None:
    inputs, outputs = [spec.name for spec in own.inputs], [spec.name for spec in own.outputs]
    wrong = [
        *_unknown("input", declared.inputs.values(), inputs),
        *_unknown("input", declared.constants, inputs),
        *_unknown("output", declared.outputs.values(), outputs),
        *_unknown("output", (declared.outputs.get(name, name) for name in declared.classes), outputs),
    ]
    classes = {spec.name: spec.classes for spec in own.outputs}
    for name, wanted in declared.classes.items():
        has = classes.get(declared.outputs.get(name, name), ())
        if sorted(has) != sorted(wanted):
            wrong.append(f"classes of output {name!r}: the version has {list(has)}, declared are {list(wanted)}")
    if wrong:
        raise LoadError(f"alignment: {'; '.join(wrong)}")


def _check_units(presented: Signature, units: Mapping[str, UnitSettings]) -> None:
    """Raises LoadError for units of what is no tensor of floats: a whole number would be rounded to another one."""
    inputs, outputs = ({spec.name: spec for spec in part} for part in (presented.inputs, presented.outputs))
    unknown = sorted(units.keys() - inputs.keys() - outputs.keys())
    wrong = [f"units: no input or output '{name}', but {[*inputs, *outputs]}" for name in unknown]
    for name in sorted(units.keys() & (inputs.keys() | outputs.keys())):
        spec = inputs.get(name) or outputs[name]
        if name in inputs and name in outputs:
            wrong.append(f"units of {name!r}: it is an input and an output: expected one of them to be renamed")
        elif spec.datatype not in CONVERTIBLE:
            wrong.append(f"units of {name!r}: expected {', '.join(CONVERTIBLE)}, received {spec.datatype}")
    if wrong:
        raise LoadError(f"alignment: {'; '.join(wrong)}")


def _unknown(kind: str, names: Iterable[str], known: Sequence[str]) -> list[str]:
    return [f"the version has no {kind} {name!r}, but {list(known)}" for name in names if name not in known]


def _constant(spec: TensorSpec, value: float | str | bool) -> tuple[Array, bool]:
    """Returns the value in the shape of an input, and whether its first dimension is the batch."""
    free = spec.shape[:1] == (-1,)
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    dtype: Any = FIXED.get(spec.datatype, np.dtype(object))
    if isinstance(value, str) != (spec.datatype == "BYTES"):
        raise LoadError(f"alignment: constant of input {spec.name!r}: expected {spec.datatype}, received {value!r}")
    return np.full(shape, value, dtype), free


def _turned(names: Mapping[str, str]) -> dict[str, str]:
    return {own: name for name, own in names.items()}
