"""Batches: requests that wait for one version, those of one kind together.

Nothing waits for a batch, unless the model's settings allow a delay: what has gathered while the loop received, or
while the version was busy, runs together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from gnomon_server.serving.inference import Inference


class Waiting:
    """The requests that wait for one version, oldest kind first."""

    __slots__ = ("_delay", "_kinds", "_most_rows", "_priorities", "size")

    def __init__(self, most_rows: int, delay: float = 0.0) -> None:
        """Takes the most rows of a batch, and the seconds for which a smaller one may wait to grow.

        A request with more rows runs alone. The most is 1 for a version whose rows are not independent.
        """
        self._most_rows = most_rows
        self._delay = delay
        self._kinds: dict[object, deque[Inference]] = {}
        # Of the kinds that have one: 1 goes first, what has none last.
        self._priorities: dict[object, int] = {}
        self.size = 0

    def put(self, inference: Inference) -> None:
        """Adds a request."""
        key = inference.layout.kind
        kind = self._kinds.get(key)
        if kind is None:
            self._kinds[key] = deque((inference,))
            if inference.layout.priority:
                self._priorities[key] = inference.layout.priority
        else:
            kind.append(inference)
        self.size += 1

    def patience(self, now: float) -> float:
        """Returns the seconds after which `take` has a batch, 0 for one that is due; `now` is a time.perf_counter()."""
        if not self._delay:
            return 0.0
        return max(0.0, min((self._due(kind) for kind in self._kinds.values()), default=now) - now)

    def take(self, now: float = 0.0) -> list[Inference]:
        """Takes the next batch that is due, requests of one kind in the order they came; empty if there is none."""
        for key in self._kinds if not self._priorities else self._by_priority():
            if not self._delay or self._due(self._kinds[key]) <= now:
                return self._taken(key)
        return []

    def withdraw(self, lost: Callable[[Inference], bool]) -> list[Inference]:
        """Takes out the requests that are lost, so that others have their places."""
        withdrawn = [inference for kind in self._kinds.values() for inference in kind if lost(inference)]
        if withdrawn:
            gone = set(withdrawn)
            rest = [inference for kind in self._kinds.values() for inference in kind if inference not in gone]
            self._kinds, self._priorities, self.size = {}, {}, 0
            for inference in rest:
                self.put(inference)
        return withdrawn

    def first_limit(self) -> float | None:
        """Returns the time.perf_counter() at which the first limit passes, or None if nothing has one."""
        waiting = (inference for kind in self._kinds.values() for inference in kind)
        return min((one.call.start + one.limit for one in waiting if one.limit is not None), default=None)

    def _by_priority(self) -> list[object]:
        return sorted(self._kinds, key=lambda key: self._priorities.get(key, math.inf))

    def _due(self, kind: deque[Inference]) -> float:
        """Returns when a kind must run: at once if it is a full batch, or has a request that cannot wait as long."""
        hasty = any(inference.limit is not None and inference.limit <= self._delay for inference in kind)
        full = sum(inference.layout.rows for inference in kind) >= self._most_rows
        return 0.0 if hasty or full else kind[0].call.start + self._delay

    def _taken(self, key: object) -> list[Inference]:
        kind = self._kinds.pop(key)
        batch = [kind.popleft()]
        rows = batch[0].layout.rows
        # Without this, requests of no rows would be joined where nothing may be.
        while kind and self._most_rows > 1 and rows + kind[0].layout.rows <= self._most_rows:
            inference = kind.popleft()
            rows += inference.layout.rows
            batch.append(inference)
        if not kind:
            self._priorities.pop(key, None)
        else:
            # To the end: a kind that never runs dry must not starve the others.
            self._kinds[key] = kind
        self.size -= len(batch)
        return batch
