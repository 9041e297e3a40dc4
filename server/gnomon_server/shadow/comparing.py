"""The comparison of a whole batch: divergences by output and row, agreement by request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array, widened
from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.choice import Chosen
from gnomon_server.shadow.comparators import TIE_EPS, Flags, Floats, divergence, unfit
from gnomon_server.shadow.decisions import Decided
from gnomon_server.shadow.digests import Inputs
from gnomon_server.shadow.ties import tied


class Values(NamedTuple):
    """What went into a batch and what came out of it."""

    inputs: Mapping[str, Array]
    primary: Mapping[str, Array]
    shadow: Mapping[str, Array]

    def only(self, keep: Flags) -> Values:
        """Returns the rows that are to be kept, where each side has rows."""
        return Values(*({name: array[keep] for name, array in side.items()} for side in self))


@dataclass(frozen=True)
class Compared:
    """A batch that the shadow answered in time, compared."""

    batch: Batch
    # By output: float64[R], one a row of the batch.
    divergences: Mapping[str, Floats]
    # By output: whether the row's divergence is above the tolerance.
    disagreements: Mapping[str, Flags]
    # float64[K], one a request: the share of its rows on which all outputs agree; 1 where it has no row.
    agreement: Floats
    # By output of which something is decided: the primary's decision for each row, and the shadow's.
    decisions: Mapping[str, tuple[Decided, Decided]]
    # By output: rows of the primary that its comparator cannot take.
    unfit: Mapping[str, int]
    # Nanoseconds since the epoch, of the shadow's run.
    start_ns: int
    end_ns: int
    # None where they are not known.
    inputs: Inputs | None = None
    values: Values | None = None


def wanted(batch: Batch, chosen: Mapping[str, Chosen]) -> list[str]:
    """Returns the outputs that the shadow must give: the primary's, and the probabilities by which labels tie."""
    names = [output.name for output in batch.fit.layout.outputs]
    beside = {chosen[name].comparison.probabilities for name in names} - {"", *names}
    return [*names, *sorted(beside)]


def compare(
    batch: Batch,
    chosen: Mapping[str, Chosen],
    primary: Mapping[str, Array],
    shadow: Mapping[str, Array],
    times: tuple[int, int],
) -> Compared:
    """Compares the outputs of a batch; `times` are start and end of the run in nanoseconds since the epoch.

    Where there is no batch dimension the whole output is one row.
    """
    primary, shadow = ({name: widened(array) for name, array in side.items()} for side in (primary, shadow))
    if not batch.fit.rowwise:
        primary = {name: array[np.newaxis] for name, array in primary.items()}
        shadow = {name: array[np.newaxis] for name, array in shadow.items()}
    decisions = {name: _decided(chosen[name], primary[name], shadow[name]) for name in primary if chosen[name].decider}
    divergences = {name: _divergence(chosen[name], primary, shadow, decisions.get(name)) for name in primary}
    disagreements = {name: d > chosen[name].limit for name, d in divergences.items()}
    broken = {name: unfit(chosen[name].comparison.comparator, primary[name], d) for name, d in divergences.items()}
    return Compared(batch, divergences, disagreements, _agreement(batch, disagreements), decisions, broken, *times)


def _decided(chosen: Chosen, primary: Array, shadow: Array) -> tuple[Decided, Decided]:
    """Returns both decisions for each row; a shadow that answers in another shape decides nothing."""
    assert chosen.decider is not None  # noqa: S101 - the caller's condition
    decide, nothing = chosen.decider.decide, chosen.decider.nothing
    other = decide(shadow) if shadow.shape == primary.shape else nothing(len(primary))
    return decide(primary), other


def _divergence(
    chosen: Chosen,
    primary: Mapping[str, Array],
    shadow: Mapping[str, Array],
    decided: tuple[Decided, Decided] | None,
) -> Floats:
    comparison = chosen.comparison
    a, b = primary[comparison.output], shadow[comparison.output]
    if decided is not None and comparison.comparator == "decision":
        a, b = decided
    result = divergence(comparison.comparator, a, b, comparison.parameters)
    if comparison.probabilities and comparison.comparator == "label" and a.shape == b.shape and a.size == len(a):
        differ = np.flatnonzero(result)
        if differ.size:
            result[differ] = ~_tied(chosen, primary, shadow, differ)
    return result


def _tied(
    chosen: Chosen,
    primary: Mapping[str, Array],
    shadow: Mapping[str, Array],
    rows: NDArray[np.intp],
) -> Flags:
    comparison = chosen.comparison
    labelled = len(primary[comparison.output])
    # A client may not have asked for the probabilities, so that the primary's answer has none.
    sides = [
        side[rows] if side is not None and side.shape[:1] == (labelled,) else None
        for side in (primary.get(comparison.probabilities), shadow.get(comparison.probabilities))
    ]
    labels = (primary[comparison.output][rows], shadow[comparison.output][rows])
    return tied(labels, (sides[0], sides[1]), chosen.classes, comparison.parameters.get("tie_eps", TIE_EPS))


def _agreement(batch: Batch, disagreements: Mapping[str, Flags]) -> Floats:
    differ: Flags = np.logical_or.reduce(list(disagreements.values()))
    count = len(batch.requests)
    rows = batch.rows
    if len(differ) == count and not (rows != 1).any():
        return 1.0 - differ.astype(np.float64)
    owners = np.repeat(np.arange(count), rows)
    wrong = np.bincount(owners, weights=differ, minlength=count)
    agreement: Floats = 1.0 - wrong / np.maximum(rows, 1)
    return agreement
