"""The profiling of traffic: rows of the primary's requests and answers, counted into the bins of its profile."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from gnomon_protos.profiles import Counter, Counts, columns
from gnomon_server.models.profile import Known
from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.comparators import Flags
from gnomon_server.shadow.comparing import Compared, Values
from gnomon_server.shadow.outcome import Ended
from gnomon_server.wire.drift import WindowCounts, WindowKey, encoded

# Seconds between reports: there are thousands of bins.
EVERY: Final = 2.0


class Profiling:
    """Counts for one shadow; belongs to the worker's event loop.

    What the shadow was never tried on is not counted, and a request that it fails on is.
    """

    def __init__(self, model: str, shadow: int, seconds: float) -> None:
        """`seconds` is the length of a window; 0: nothing is counted."""
        self._model, self._shadow, self._seconds = model, shadow, seconds
        self._window_ns = round(seconds * 1e9)
        self._primary = 0
        self._digest = ""
        self._counter: Counter | None = None
        # Since the last report.
        self._counts: dict[WindowKey, Counts] = {}
        self._reported = -EVERY

    @property
    def wanted(self) -> bool:
        """Whether a profile would be counted by."""
        return self._window_ns > 0

    def use(self, primary: int, known: Known | None) -> None:
        """Takes which version is the primary now, and its profile if it has one."""
        self._primary = primary
        self._counter = Counter(known.profile) if known is not None and self.wanted else None
        self._digest = known.digest if known is not None else ""

    def settle(self, ended: Ended) -> None:
        """Counts what went into a batch and what the primary answered."""
        if self._counter is None or ended.values is None:
            return
        batch = ended.batch if isinstance(ended, Compared) else ended.tried
        if batch is None or batch.requests[0].record.primary != self._primary:
            return
        numbers = batch.ends_ns // self._window_ns
        for number in np.unique(numbers):
            own = numbers == number
            self._count(self._counter, int(number), batch, ended.values, None if own.all() else own)

    def report(self, *, last: bool = False) -> tuple[WindowCounts, ...]:
        """Returns what was counted since the last report; nothing before it is time, unless it is the last one."""
        now = time.monotonic()
        if not self._counts or (now < self._reported + EVERY and not last):
            return ()
        counts, self._counts, self._reported = self._counts, {}, now
        return tuple(WindowCounts(key, encoded(found)) for key, found in sorted(counts.items()))

    def _count(self, counter: Counter, number: int, batch: Batch, values: Values, own: Flags | None) -> None:
        rowwise = batch.fit.rowwise
        rows = int(batch.rows.sum()) if rowwise else 1
        inputs = {name: columns(array, rowwise=rowwise) for name, array in values.inputs.items()}
        outputs = {name: columns(array, rowwise=rowwise) for name, array in values.primary.items()}
        if own is not None:
            kept = np.repeat(own, batch.rows)
            rows = int(np.count_nonzero(kept))
            inputs, outputs = ({name: array[kept] for name, array in side.items()} for side in (inputs, outputs))
        key = WindowKey(self._model, self._primary, self._digest, self._seconds, number, self._shadow)
        found = counter.count(inputs, outputs, rows)
        known = self._counts.get(key)
        self._counts[key] = found if known is None else known + found
