"""The reservoir: a bounded sample of the requests on which the shadow disagrees, to be looked at by people."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos import tensors
from gnomon_protos.tensors import Array
from gnomon_server.settings import CompareSettings
from gnomon_server.shadow.comparing import Compared, Values
from gnomon_server.wire.tallies import KeptRequest, KeptTensor

# Rows of one request that are kept.
ROWS: Final = 8
# Bytes of one tensor beyond which its contents are withheld.
TENSOR_BYTES: Final = 64 << 10
_MIX: Final = 0x9E3779B97F4A7C15
_WHOLE: Final = (1 << 64) - 1


class Reservoir:
    """Chooses the requests of the lowest priorities: as good as random, and the same in every replica."""

    def __init__(self, settings: CompareSettings) -> None:
        self._most = settings.keep
        self._age_ns = round(settings.keep_seconds * 1e9)
        self._redacted = frozenset(settings.redact)
        self._primary = 0
        # Of what is kept, the greatest priority first: minus the priority, and when the primary had answered.
        self._kept: list[tuple[int, int]] = []
        self._fresh: list[KeptRequest] = []

    def settle(self, compared: Compared) -> None:
        """Keeps some of a batch's divergent requests."""
        if not self._most or compared.values is None:
            return
        requests = compared.batch.requests
        if requests[0].record.primary != self._primary:
            self._primary, self._kept = requests[0].record.primary, []
        for index in np.flatnonzero(compared.agreement < 1):
            record = requests[index].record
            priority = _priority(record.span_id)
            if self._enters(priority, record.end_ns):
                self._fresh.append(self._request(compared, compared.values, int(index), priority))

    def take(self) -> tuple[KeptRequest, ...]:
        """Returns what was kept since the last call."""
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    def _enters(self, priority: int, now_ns: int) -> bool:
        if len(self._kept) >= self._most and -self._kept[0][0] <= priority:
            young = [one for one in self._kept if one[1] >= now_ns - self._age_ns]
            if len(young) == len(self._kept):
                return False
            self._kept = young
            heapq.heapify(self._kept)
        enter = heapq.heappush if len(self._kept) < self._most else heapq.heapreplace
        enter(self._kept, (-priority, now_ns))
        return True

    def _request(self, compared: Compared, values: Values, index: int, priority: int) -> KeptRequest:
        request = compared.batch.requests[index]
        end = int(compared.batch.rows[: index + 1].sum())
        mine = slice(end - request.fit.rows, end)
        differ = np.logical_or.reduce([flags[mine] for flags in compared.disagreements.values()])
        rows = mine.start + np.flatnonzero(differ)[:ROWS] if compared.batch.fit.rowwise else None
        total = int(compared.batch.rows.sum())
        inputs, primary, shadow = (self._tensors(side, rows, total) for side in values)
        return KeptRequest(
            primary=request.record.primary,
            priority=priority,
            trace_id=request.record.trace_id,
            time_ns=request.record.end_ns,
            divergences=tuple((name, float(d[mine].max(initial=0))) for name, d in compared.divergences.items()),
            rows=request.fit.rows,
            inputs=inputs,
            primary_outputs=primary,
            shadow_outputs=shadow,
        )

    def _tensors(self, side: Mapping[str, Array], rows: NDArray[np.intp] | None, total: int) -> tuple[KeptTensor, ...]:
        # A shadow may have answered a request that ran alone in any shape.
        return tuple(
            self._tensor(name, array[rows] if rows is not None and len(array) == total else array)
            for name, array in side.items()
        )

    def _tensor(self, name: str, array: Array) -> KeptTensor:
        withheld = name in self._redacted or array.nbytes > TENSOR_BYTES
        raw = None if withheld else tensors.to_raw(array)
        withheld = raw is None or len(raw) > TENSOR_BYTES
        return KeptTensor(name, tensors.datatype_of(array), array.shape, None if withheld else raw)


def _priority(span_id: int) -> int:
    """Returns a number in which no order of the spans shows."""
    mixed = span_id * _MIX & _WHOLE
    return (mixed >> 32 | mixed << 32) & _WHOLE
