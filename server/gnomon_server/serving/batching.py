"""Batches: requests that wait for one version, joined into one run where that changes no answer.

Nothing waits for a batch, unless the model's settings allow a delay: what has gathered while the loop received, or
while the version was busy, runs together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gnomon_protos.tensors import Array


@dataclass(slots=True)
class Job:
    """One request that is to run."""

    # Requests with equal keys may be joined: the same inputs in dtype and shape but for the rows, the same outputs.
    key: object
    inputs: Mapping[str, Array]
    outputs: Sequence[str]
    rows: int
    # Seconds within which it must have begun, or None, and time.perf_counter() when it came.
    limit: float | None
    since: float
    # Whether nobody waits for it any more.
    abandoned: Callable[[], bool]
    # What its owner needs to answer.
    owner: Any


class Waiting:
    """The jobs that wait for one version, oldest kind first."""

    __slots__ = ("_delay", "_kinds", "_most_rows", "size")

    def __init__(self, most_rows: int, delay: float = 0.0) -> None:
        """Takes the most rows of a batch, and the seconds for which a smaller one may wait to grow.

        A request with more rows runs alone. The most is 1 for a version whose rows are not independent.
        """
        self._most_rows = most_rows
        self._delay = delay
        self._kinds: dict[object, deque[Job]] = {}
        self.size = 0

    def put(self, job: Job) -> None:
        """Adds a job."""
        kind = self._kinds.get(job.key)
        if kind is None:
            self._kinds[job.key] = deque((job,))
        else:
            kind.append(job)
        self.size += 1

    def patience(self, now: float) -> float:
        """Returns the seconds after which `take` has a batch; `now` is of time.perf_counter(). 0: one is due."""
        if not self._delay:
            return 0.0
        return max(0.0, min((self._due(kind) for kind in self._kinds.values()), default=now) - now)

    def take(self, now: float = 0.0) -> list[Job]:
        """Takes the next batch that is due, jobs of one kind in the order they came; empty if there is none."""
        for key, kind in self._kinds.items():
            if not self._delay or self._due(kind) <= now:
                return self._taken(key)
        return []

    def _due(self, kind: deque[Job]) -> float:
        """Returns when a kind must run: at once if it is a full batch, or has a job that cannot wait as long."""
        hasty = any(job.limit is not None and job.limit <= self._delay for job in kind)
        full = sum(job.rows for job in kind) >= self._most_rows
        return 0.0 if hasty or full else kind[0].since + self._delay

    def _taken(self, key: object) -> list[Job]:
        kind = self._kinds.pop(key)
        batch = [kind.popleft()]
        rows = batch[0].rows
        # Without this, requests of no rows would be joined where nothing may be.
        while kind and self._most_rows > 1 and rows + kind[0].rows <= self._most_rows:
            job = kind.popleft()
            rows += job.rows
            batch.append(job)
        if kind:
            # To the end: a kind that never runs dry must not starve the others.
            self._kinds[key] = kind
        self.size -= len(batch)
        return batch


def joined(batch: Sequence[Job]) -> Mapping[str, Array]:
    """Returns the inputs of a batch, each joined along its first dimension."""
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([job.inputs[name] for job in batch]) for name in batch[0].inputs}


def divisible(batch: Sequence[Job], outputs: Sequence[Array]) -> bool:
    """Whether every output has as many rows as the batch, so that `split` gives each request its own.

    A model may drop or repeat rows on some inputs only, which no probe at its loading can rule out.
    """
    rows = sum(job.rows for job in batch)
    return len(batch) == 1 or all(output.shape[:1] == (rows,) for output in outputs)


def split(batch: Sequence[Job], outputs: Sequence[Array]) -> list[Sequence[Array]]:
    """Returns each job's part of a batch's outputs."""
    if len(batch) == 1:
        return [outputs]
    parts: list[Sequence[Array]] = []
    begin = 0
    for job in batch:
        end = begin + job.rows
        parts.append([output[begin:end] for output in outputs])
        begin = end
    return parts
