"""The truth about an output: how labels are read, what a version decides, and what it loses where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gnomon_protos.tensors import Array, widened
from gnomon_server.errors import InvalidRequest, LoadError, listed, quoted
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import FeedbackSettings
from gnomon_server.shadow.choice import FLOATS, Chosen, is_probabilities
from gnomon_server.shadow.comparators import Floats

LABEL: Final = "label"
# Labels of an output of truth values.
_TRUTHS: Final = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Truth:
    """What labels of one output are; every loss is in [0, 1]."""

    model: str
    output: str
    # LABEL, "absolute" or "squared".
    loss: str
    # What a loss of 1 is: a wrong label, or a number that is off by this much.
    scale: float
    # What a label can be, where that is known.
    classes: tuple[str, ...]
    # Whether the class is the column with the greatest number; otherwise the value itself decides.
    columns: bool
    # Whether decisions are text; otherwise they are float64.
    text: bool
    # Whether only whole numbers can be decided.
    whole: bool

    def read(self, labels: Sequence[str]) -> Array:
        """Returns the labels of a request as decisions, one a row; raises InvalidRequest."""
        if not labels:
            raise self._wrong("a label for each row", "none")
        if self.text:
            strange = next((label for label in labels if self.classes and label not in self.classes), None)
            if strange is not None:
                raise self._wrong(f"one of {listed(self.classes)}", quoted(strange))
            return np.array(labels, object)
        return np.array([self._number(label) for label in labels], np.float64)

    def decided(self, output: Array) -> Array | None:
        """Returns the decision of each row of [B], [B, 1] or, where columns are classes, [B, C]; None otherwise."""
        rows = widened(output)
        if self.columns:
            if rows.ndim != 2 or (self.classes and rows.shape[1] != len(self.classes)) or not rows.shape[1]:
                return None
            best = np.argmax(np.where(np.isnan(rows), -np.inf, rows), axis=1)
            found: Array = np.array(self.classes, object)[best] if self.text else best.astype(np.float64)
            return found
        if rows.ndim == 0 or rows.size != len(rows):
            return None
        flat = rows.reshape(-1)
        return flat.astype(object) if self.text else flat.astype(np.float64)

    def losses(self, decided: Array, truth: Array) -> Floats:
        """Returns what each decision loses."""
        return self._loss(decided, truth)

    def spread(self, primary: Array, shadow: Array) -> Floats:
        """Returns by how much the losses of two decisions can differ at most, whatever the truth is."""
        if self.loss == "squared":
            # |a^2 - b^2| is at most 1, and 0 where a = b.
            return np.asarray(~(primary == shadow), np.float64)
        return self._loss(primary, shadow)

    def _loss(self, one: Array, other: Array) -> Floats:
        if self.loss == LABEL:
            return np.asarray(one != other, np.float64)
        off = np.abs(one - other) / self.scale
        # What is no number is as wrong as can be.
        bounded: Floats = np.where(np.isnan(off), 1.0, np.minimum(off, 1.0))
        return bounded**2 if self.loss == "squared" else bounded

    def _number(self, label: str) -> float:
        try:
            number = _TRUTHS[label.lower()] if label.lower() in _TRUTHS else float(label)
        except ValueError:
            number = np.nan
        if not np.isfinite(number) or (self.whole and not number.is_integer()):
            raise self._wrong("a whole number" if self.whole else "a number", quoted(label))
        return number

    def _wrong(self, expected: str, received: str) -> InvalidRequest:
        return InvalidRequest(f"model '{self.model}' output '{self.output}': expected {expected}, received {received}")


def truth(model: str, signature: Signature, chosen: Mapping[str, Chosen], settings: FeedbackSettings) -> Truth:
    """Returns what labels of a model are; raises LoadError, naming the setting that would say it, where none does."""
    spec = _spec(model, signature, chosen, settings.output)
    where = f"[models.{model}.feedback]"
    columns = len(spec.shape) == 2 and spec.shape[1] != 1
    if spec.datatype in FLOATS and not columns and chosen[spec.name].comparison.comparator != LABEL:
        if not settings.scale:
            raise LoadError(f"{where} scale: expected how far output '{spec.name}' can be off at most, received 0")
        return Truth(model, spec.name, settings.loss, settings.scale, (), False, False, False)
    if columns and (spec.datatype not in FLOATS):
        raise LoadError(f"{where} output: expected one decision a row, '{spec.name}' has shape {list(spec.shape)}")
    text = bool(spec.classes) if columns else spec.datatype == "BYTES"
    return Truth(model, spec.name, LABEL, 1.0, spec.classes if text else (), columns, text, not text)


def _spec(model: str, signature: Signature, chosen: Mapping[str, Chosen], wanted: str) -> TensorSpec:
    specs = {spec.name: spec for spec in signature.outputs}
    where = f"[models.{model}.feedback] output"
    if wanted:
        if wanted not in specs:
            raise LoadError(f"{where}: expected one of {list(specs)}, received '{wanted}'")
        return specs[wanted]
    labels = [spec for spec in specs.values() if chosen[spec.name].comparison.comparator == LABEL]
    probabilities = [spec for spec in specs.values() if is_probabilities(spec)]
    numbers = [
        spec for spec in specs.values() if spec.datatype in FLOATS and (len(spec.shape) == 1 or spec.shape[1:] == (1,))
    ]
    for found in (labels, probabilities, numbers):
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise LoadError(f"{where}: expected the one of {list(specs)} that labels are about, received none")
