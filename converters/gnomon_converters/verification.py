"""The verification: how the converted model's outputs agree with the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from gnomon_converters.frameworks import Expected, Original
from gnomon_protos.tensors import Array

# Two classes whose probabilities are this close are equally likely: float32 decides which of them comes first.
TIE: Final = 1e-6
# Greatest difference of one probability. A sound float32 conversion stays below 1.2e-5.
PROBABILITIES: Final = 1e-4
# Greatest difference of a value, as a share of itself and of the root mean square of all values together.
VALUES: Final = 1e-4


@dataclass(frozen=True)
class OutputAgreement:
    """How one output agrees over the rows of the sample."""

    output: str
    # "label", "probabilities" or "value".
    meaning: str
    # Largest absolute difference; for labels 1 if any flipped.
    max_difference: float
    # Largest difference that is accepted.
    tolerance: float
    rows_over_tolerance: int
    # Rows whose label changed, and those of them where two classes were equally likely, which are not flips.
    label_flips: int = 0
    tied_rows: int = 0
    # Largest absolute difference between a row that runs alone and the same row in a batch; 0 for labels.
    batch_difference: float = 0.0


@dataclass(frozen=True)
class Verification:
    """How all outputs agree."""

    rows: int
    outputs: tuple[OutputAgreement, ...]

    @property
    def passed(self) -> bool:
        """Whether no row of any output differs by more than its tolerance."""
        return self.rows_over_tolerance == 0

    @property
    def rows_over_tolerance(self) -> int:
        """Rows over tolerance, added up over the outputs."""
        return sum(output.rows_over_tolerance for output in self.outputs)

    def explain(self) -> str:
        """Returns in one line which outputs disagree, by how much and in how many rows."""
        return "; ".join(_explain(output, self.rows) for output in self.outputs if output.rows_over_tolerance)


def verify(
    original: Original,
    received: Mapping[str, Array],
    tolerance: float | None,
    alone: Mapping[str, Array] = MappingProxyType({}),
) -> Verification:
    """Compares the original's outputs with those of the converted model, row by row.

    `tolerance` is an absolute difference in place of the defaults. It covers labels too: a label may flip where the two
    classes are less than twice the tolerance apart, which is what the accepted difference can do. `alone` holds what
    the converted model gives for the first rows if each runs by itself.
    """
    probabilities = next((expected for expected in original.outputs if expected.meaning == "probabilities"), None)
    agreements = [
        _label(expected, received[expected.name], probabilities, tolerance)
        if expected.meaning == "label"
        else _numbers(expected, received[expected.name], tolerance)
        for expected in original.outputs
    ]
    return Verification(
        len(original.outputs[0].values),
        tuple(
            replace(found, batch_difference=_apart(received[found.output], alone[found.output]))
            if found.output in alone and found.meaning != "label"
            else found
            for found in agreements
        ),
    )


def _apart(together: Array, alone: Array) -> float:
    """Returns the largest difference between rows of a batch and the same rows alone, as far as they were tried."""
    if together.shape[1:] != alone.shape[1:]:
        return 0.0
    return float(np.max(_difference(together[: len(alone)].astype(np.float64), alone.astype(np.float64)), initial=0))


def _label(
    expected: Expected, received: Array, probabilities: Expected | None, tolerance: float | None
) -> OutputAgreement:
    received = received.reshape(expected.values.shape)
    changed = np.flatnonzero(expected.values != received)
    margins = _margins(expected, received, changed, probabilities)
    tied = int(np.count_nonzero(margins <= TIE))
    flips = len(changed) - tied
    over = int(np.count_nonzero(margins > max(TIE, 2 * (tolerance or 0.0))))
    return OutputAgreement(expected.name, expected.meaning, float(flips > 0), 0.0, over, flips, tied)


def _margins(expected: Expected, received: Array, rows: Array, probabilities: Expected | None) -> Array:
    """Returns how far apart the original sees the two labels of each changed row; infinite where it cannot say."""
    if probabilities is None:
        return np.full(len(rows), np.inf)
    columns = {name: column for column, name in enumerate(expected.classes)}
    before = [columns[str(expected.values[row])] for row in rows]
    after = [columns.get(str(received[row]), -1) for row in rows]
    margins = np.abs(probabilities.values[rows, before] - probabilities.values[rows, after])
    return np.where(np.array(after, np.int64) < 0, np.inf, margins)


def _numbers(expected: Expected, received: Array, tolerance: float | None) -> OutputAgreement:
    values = expected.values.astype(np.float64).reshape(len(expected.values), -1)
    if received.size != values.size:
        return OutputAgreement(expected.name, expected.meaning, float("inf"), 0.0, len(values))
    difference = _difference(values, received.reshape(values.shape).astype(np.float64))
    bounds = _bounds(expected.meaning, values, tolerance)
    over = int(np.count_nonzero(np.any(difference > bounds, axis=1)))
    return OutputAgreement(expected.name, expected.meaning, float(np.max(difference)), float(np.max(bounds)), over)


def _difference(expected: Array, received: Array) -> Array:
    """Returns absolute differences; equal infinities and two NaN agree, any other that is not finite is infinite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected - received)
    same = (expected == received) | (np.isnan(expected) & np.isnan(received))
    result: Array = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    return result


def _bounds(meaning: str, values: Array, tolerance: float | None) -> Array:
    if tolerance is not None:
        return np.full(values.shape, tolerance)
    if meaning == "probabilities":
        return np.full(values.shape, PROBABILITIES)
    finite = np.where(np.isfinite(values), values, 0.0)
    bounds: Array = VALUES * (np.abs(finite) + np.sqrt(np.mean(np.square(finite))))
    return bounds


def _explain(output: OutputAgreement, rows: int) -> str:
    if output.meaning == "label":
        return f"output {output.output!r} flips in {output.label_flips} of {rows} rows (ties left out)"
    return (
        f"output {output.output!r} differs by up to {output.max_difference:.3g}"
        f" and by more than {output.tolerance:.3g} in {output.rows_over_tolerance} of {rows} rows"
    )
