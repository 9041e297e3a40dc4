"""Requests that a label can be joined to, and what those that have one say of a primary and its shadow."""

from __future__ import annotations

from collections import Counter
from sys import getsizeof
from typing import Final, NamedTuple

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.shadow.cohorts import Block, Cohorts
from gnomon_server.shadow.comparators import Flags, Floats
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.truth import LABEL, Truth
from gnomon_server.wire.labels import LabelTally

# What becomes of a label.
JOINED: Final = "joined"
WAITING: Final = "waiting"
LATE: Final = "late"
DUPLICATE: Final = "duplicate"
REFUSED: Final = "refused"
UNKNOWN: Final = "unknown"


# Bytes of a request in a batch of its own, of each of its rows, and of its labels, as they were measured.
REQUEST_BYTES: Final = 680
ROW_BYTES: Final = 25
LABELS_BYTES: Final = 120


def text_bytes(values: Array) -> int:
    """Returns the bytes of texts, each once; other values have none beside those of the array."""
    if values.dtype != object:
        return 0
    return sum(map(getsizeof, {id(text): text for text in values.tolist()}.values()))


class Decisions(NamedTuple):
    """What both versions decided, a row each."""

    primary: Array
    shadow: Array

    def rows(self, part: slice) -> Decisions:
        """Returns some of the rows."""
        return Decisions(self.primary[part], self.shadow[part])


def decisions(compared: Compared, truth: Truth) -> Decisions | None:
    """Returns the decisions on a batch; None where the client did not ask for the output, or its shape has none."""
    values = compared.values
    if values is None or truth.output not in values.primary:
        return None
    sides = [side[truth.output] for side in (values.primary, values.shadow)]
    primary, shadow = (truth.decided(side if compared.batch.fit.rowwise else side[np.newaxis]) for side in sides)
    if primary is None or shadow is None or len(primary) != len(shadow):
        return None
    return Decisions(primary, shadow)


class Batch(NamedTuple):
    """Decisions on requests that were compared together, with which of the rows are observed."""

    decisions: Decisions
    kept: Flags


class Request:
    """A request that both versions answered: some rows of a batch."""

    __slots__ = ("_batch", "_rows", "block", "end_ns", "labels", "pair", "size", "spread")

    def __init__(
        self, pair: Pair, end_ns: int, batch: Batch, rows: tuple[int, int], block: Block | None, spread: float
    ) -> None:
        self.pair = pair
        # When the primary answered, in nanoseconds since the epoch.
        self.end_ns = end_ns
        self._batch = batch
        self._rows = rows
        # Of the observations; None where it is none.
        self.block = block
        # By how much its losses can differ at most, on the average of the rows that are observed.
        self.spread = spread
        # One a row, once they are known.
        self.labels: Array | None = None
        # About how many bytes it takes.
        self.size = REQUEST_BYTES + self.rows * ROW_BYTES + sum(map(text_bytes, self.decisions))
        if block is not None:
            block.open += 1

    @property
    def rows(self) -> int:
        """How many labels it takes."""
        return self._rows[1] - self._rows[0]

    @property
    def decisions(self) -> Decisions:
        """What was decided."""
        return self._batch.decisions.rows(slice(*self._rows))

    def observed(self, values: Floats) -> float:
        """Returns the mean over the rows that are observed."""
        return float(values[self._batch.kept[slice(*self._rows)]].mean())

    def forget(self) -> None:
        """Takes that no label will be joined any more."""
        if self.block is not None:
            self.block.open -= 1
            self.block.touch()


class Pair:
    """The labels of one primary and the shadow, cumulative."""

    def __init__(self, cohorts: Cohorts) -> None:
        self.cohorts = cohorts
        # Requests that were offered, and labels by what became of them.
        self.requests = 0
        self.counts: Counter[str] = Counter()
        self.conflicting = 0
        # Labels that were passed on, and requests that were forgotten before one came.
        self.forwarded = self.forgotten = 0
        self._rows = 0
        # By (primary, shadow): who is right.
        self._right: Counter[tuple[bool, bool]] = Counter()
        self._primary_loss = self._shadow_loss = 0.0
        self._delay = 0.0

    def join(self, request: Request, labels: Array, truth: Truth, delay: float, counted: bool) -> None:
        """Takes the labels of a request, which came `delay` seconds after the answer.

        `counted` says whether the request is among the observations already, with its spread in place of the loss.
        """
        primary, shadow = (truth.losses(side, labels) for side in request.decisions)
        request.labels = labels
        self.counts[JOINED] += 1
        self._delay += delay
        self._rows += len(labels)
        self._primary_loss += float(primary.sum())
        self._shadow_loss += float(shadow.sum())
        if truth.loss == LABEL:
            self._right.update(zip((primary == 0).tolist(), (shadow == 0).tolist(), strict=True))
        if request.block is not None:
            excess, spread = request.observed(shadow - primary), request.spread if counted else 0.0
            request.block.labelled += 1
            request.block.counted += not counted
            request.block.change(excess - spread, excess + spread)

    def snapshot(self, truth: Truth, basis: str, waiting: int = 0) -> LabelTally:
        """Returns the counts so far."""
        return LabelTally(
            basis=basis,
            output=truth.output,
            loss=truth.loss,
            scale=truth.scale,
            requests=self.requests,
            joined=self.counts[JOINED],
            late=self.counts[LATE],
            duplicate=self.counts[DUPLICATE],
            conflicting=self.conflicting,
            refused=self.counts[REFUSED],
            unknown=self.counts[UNKNOWN],
            waiting=waiting,
            forwarded=self.forwarded,
            forgotten=self.forgotten,
            rows=self._rows,
            both_right=self._right[True, True],
            primary_right=self._right[True, False],
            shadow_right=self._right[False, True],
            both_wrong=self._right[False, False],
            primary_loss=self._primary_loss,
            shadow_loss=self._shadow_loss,
            delay=self._delay,
            cohorts=self.cohorts.snapshot(),
        )
