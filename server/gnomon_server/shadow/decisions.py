"""Decisions: what users' thresholds make of scores, and which of them a shadow turns round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Decision
from gnomon_server.models.signature import TensorSpec
from gnomon_server.shadow.comparators.elements import flat
from gnomon_server.wire.tallies import FlipTally

Decided = NDArray[np.intp]
# What a score that is NaN, or that is not there, leads to.
UNDECIDED: Final = "undecided"


@dataclass(frozen=True)
class Decider:
    """One output's rule; a decision is the number of thresholds that the score reaches, or one more if undecided."""

    decision: Decision
    column: int

    def decide(self, output: Array) -> Decided:
        """Returns the decision of each row of [B] or [B, C]."""
        rows = flat(output)
        nothing = self.nothing(len(rows))
        if not -rows.shape[1] <= self.column < rows.shape[1]:
            return nothing
        scores = rows[:, self.column].astype(np.float64)
        return np.where(np.isnan(scores), nothing, np.searchsorted(self.decision.thresholds, scores, side="right"))

    def nothing(self, rows: int) -> Decided:
        """Returns as many rows for which nothing is decided."""
        return np.full(rows, len(self.decision.names))


class Flips:
    """Counts of how the shadow decides what the primary decided; cumulative."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision
        self._size = len(decision.names) + 1
        self._counts = np.zeros(self._size**2, np.int64)

    def add(self, primary: Decided, shadow: Decided) -> None:
        """Counts the decisions of a batch's rows."""
        self._counts += np.bincount(primary * self._size + shadow, minlength=self._size**2)

    def snapshot(self) -> tuple[FlipTally, ...]:
        """Returns the counts of every flip that occurred."""
        names = (*self._decision.names, UNDECIDED)
        found = []
        for index in np.flatnonzero(self._counts):
            before, after = divmod(int(index), self._size)
            if before != after:
                rows, flip = int(self._counts[index]), (names[before], names[after])
                found.append(FlipTally(*flip, rows, rows * self._decision.costs.get(flip, 0.0)))
        return tuple(found)


def decider(decision: Decision, spec: TensorSpec, where: str) -> Decider:
    """Returns the rule of an output; raises LoadError, naming `where`, for one that does not fit it."""
    _check(decision, where)
    if not decision.score:
        return Decider(decision, -1)
    width = spec.shape[1] if len(spec.shape) == 2 else 1
    columns = [*spec.classes] or [str(column) for column in range(width)]
    # A width that is free is known at run time only.
    if decision.score.isdecimal() and width == -1 and not spec.classes:
        return Decider(decision, int(decision.score))
    if decision.score not in columns:
        raise LoadError(f"{where}: score: expected one of {columns}, received {decision.score!r}")
    return Decider(decision, columns.index(decision.score))


def _check(decision: Decision, where: str) -> None:
    thresholds, names = decision.thresholds, decision.names
    if not thresholds or list(thresholds) != sorted(set(thresholds)) or not np.isfinite(thresholds).all():
        raise LoadError(f"{where}: thresholds: expected finite numbers that ascend, received {list(thresholds)}")
    if len(names) != len(thresholds) + 1 or len(set(names)) != len(names) or UNDECIDED in names:
        expected = f"{len(thresholds) + 1} different names"
        raise LoadError(f"{where}: decisions: expected {expected}, received {list(names)}")
    _check_costs(decision, where)


def _check_costs(decision: Decision, where: str) -> None:
    known: Sequence[str] = (*decision.names, UNDECIDED)
    for flip, cost in decision.costs.items():
        if not set(flip) <= set(known) or flip[0] == flip[1]:
            raise LoadError(f"{where}: costs: expected two of {list(known)}, received {' -> '.join(flip)!r}")
        if not np.isfinite(cost):
            raise LoadError(f"{where}: costs: expected a finite number for {' -> '.join(flip)!r}, received {cost}")
