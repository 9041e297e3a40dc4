"""Rows: a bounded sample of what was asked, row by row, with whether the shadow disagreed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array, widened
from gnomon_server.shadow.comparators import Flags, Floats
from gnomon_server.shadow.comparing import Compared

# Columns of the inputs that are looked at, the first ones, and characters of a text: wide inputs would fill the memory.
COLUMNS: Final = 64
CHARACTERS: Final = 64


class Rows:
    """At most `most` rows, half of them such as disagree; each kind is thinned at random as it outgrows its half."""

    def __init__(self, most: int, redacted: Collection[str] = (), seed: int | None = None) -> None:
        self._redacted = redacted
        self._random = np.random.default_rng(seed)
        self._strata = tuple(_Stratum(most // 2) for _ in range(2))
        # Rows that were offered.
        self.seen = 0

    def settle(self, compared: Compared) -> None:
        """Takes a share of a batch's rows; of requests whose outputs are no rows, none."""
        if compared.values is None or not compared.batch.fit.rowwise:
            return
        differ = np.logical_or.reduce(list(compared.disagreements.values()))
        lots, halves = self._random.random(len(differ)), self._random.random(len(compared.batch.requests)) < 0.5
        self.seen += len(differ)
        for stratum, mine in zip(self._strata, (~differ, differ), strict=True):
            rows = np.flatnonzero(mine & (lots < stratum.share))
            if not len(rows):
                continue
            owners = np.repeat(np.arange(len(halves)), compared.batch.rows)[rows]
            traces = [compared.batch.requests[owner].record.trace_id for owner in owners]
            held = _held(compared.values.inputs, rows, self._redacted)
            stratum.add(_Part(lots[rows], halves[owners], np.array(traces, object), held))

    @property
    def differing(self) -> int:
        """Rows of the sample that disagree."""
        return self._strata[1].size

    def snapshot(self) -> Sample | None:
        """Returns the sample so far; None if there is nothing to look at, or inputs of different kinds came."""
        parts = [part for stratum in self._strata for part in stratum.parts]
        kinds = {tuple((name, array.shape[1:]) for name, array in part.inputs.items()) for part in parts}
        if len(kinds) != 1:
            return None
        (kind,) = kinds
        inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name, _ in kind}
        differ = np.concatenate(
            [np.full(stratum.size, differs) for stratum, differs in zip(self._strata, (False, True), strict=True)]
        )
        weights = np.concatenate([np.full(stratum.size, 1 / stratum.share) for stratum in self._strata])
        return Sample(
            features=_columns(inputs),
            differ=differ,
            half=np.concatenate([part.halves for part in parts]),
            weights=weights,
            traces=np.concatenate([part.traces for part in parts]),
        )


@dataclass(frozen=True)
class Sample:
    """Rows to look at."""

    # By name, float64[n] or object[n].
    features: dict[str, Array]
    differ: Flags
    # By which the rows of a request are on one side together.
    half: Flags
    # How many rows each one stands for.
    weights: Floats
    # object[n]: the trace id of each row's request.
    traces: Array


@dataclass(frozen=True)
class _Part:
    """Some rows of one batch."""

    lots: Floats
    halves: Flags
    traces: Array
    inputs: dict[str, Array]

    def below(self, share: float) -> _Part:
        """Returns the rows whose lot is below a share."""
        keep = self.lots < share
        inputs = {name: array[keep] for name, array in self.inputs.items()}
        return _Part(self.lots[keep], self.halves[keep], self.traces[keep], inputs)


class _Stratum:
    """The rows of one kind."""

    def __init__(self, most: int) -> None:
        self._most = most
        # Of all rows of this kind, the share that is in the sample.
        self.share = 1.0
        self.size = 0
        self.parts: list[_Part] = []

    def add(self, part: _Part) -> None:
        self.parts.append(part)
        self.size += len(part.lots)
        while self.size > self._most:
            self.share /= 2
            self.parts = [part for part in (one.below(self.share) for one in self.parts) if len(part.lots)]
            self.size = sum(len(one.lots) for one in self.parts)


def _held(inputs: Mapping[str, Array], rows: NDArray[np.intp], redacted: Collection[str]) -> dict[str, Array]:
    """Returns some rows of the inputs that are columns, as far as there is room for them."""
    held, room = {}, COLUMNS
    for name, array in inputs.items():
        if array.ndim > 2 or name in redacted or not room:
            continue
        part = array.reshape(len(array), prod(array.shape[1:]))[rows, :room]
        if part.dtype.kind == "O":
            part = np.array([str(text)[:CHARACTERS] for text in part.flat], object).reshape(part.shape)
        held[name] = part
        room -= part.shape[1]
    return held


def _columns(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns [n, F] inputs column by column: numbers as float64[n], text as object[n]."""
    columns: dict[str, Array] = {}
    for name, array in inputs.items():
        rows = array if array.dtype.kind == "O" else widened(array).astype(np.float64)
        for index in range(rows.shape[1]):
            columns[name if rows.shape[1] == 1 else f"{name}[{index}]"] = rows[:, index]
    return columns
