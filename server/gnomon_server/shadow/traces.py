"""Traces: the mirrored requests worth a span, kept until the next report."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.outcome import COMPARED, SHADOW_ERROR, Ended, Uncompared
from gnomon_server.wire.record import Record
from gnomon_server.wire.traces import CallTrace, ShadowTrace

METHOD: Final = "inference.GRPCInferenceService/ModelInfer"
# Traces that a report may carry of requests that clients or the sampler chose, and notable ones beside them.
KEPT_SAMPLED: Final = 250
# Notable requests that may come at once. A span costs its exporter about 50 microseconds, and takes them from the
# primary where both share a processor: a shadow that is always wrong must not cost more than it tells.
BURST: Final = 500


class Traces:
    """Collects traces of divergent, failed and sampled requests that the shadow ran."""

    def __init__(self, model: str, version: int, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the notable requests a second, on the average, that are worth a trace beside the sampled ones."""
        self._model = model
        self._version = version
        self._allowance = _Allowance(rate, BURST, clock)
        self._kept: list[ShadowTrace] = []
        self._sampled = 0
        # Worth a trace, and without room; cumulative.
        self.dropped = 0

    def settle(self, ended: Ended) -> None:
        """Keeps what is worth a trace of a batch."""
        if not ended.end_ns:
            return
        if isinstance(ended, Uncompared):
            self._settle_uncompared(ended)
        else:
            self._settle_compared(ended)

    def take(self) -> tuple[ShadowTrace, ...]:
        """Returns the traces since the last call."""
        kept, self._kept, self._sampled = tuple(self._kept), [], 0
        return kept

    def _settle_uncompared(self, ended: Uncompared) -> None:
        for record in ended.records:
            failed = ended.outcome == SHADOW_ERROR
            if (failed or record.sampled) and self._room(failed, record.sampled):
                self._kept.append(self._trace(record, ended, ended.outcome))

    def _settle_compared(self, ended: Compared) -> None:
        sampled = [request.record.sampled for request in ended.batch.requests]
        divergent = ended.agreement < 1
        ends = ended.batch.rows.cumsum()
        for index in np.flatnonzero(divergent | sampled):
            request = ended.batch.requests[index]
            if self._room(bool(divergent[index]), request.record.sampled):
                rows = slice(ends[index] - request.fit.rows, ends[index])
                worst = tuple((name, float(d[rows].max(initial=0))) for name, d in ended.divergences.items())
                self._kept.append(self._trace(request.record, ended, COMPARED, bool(divergent[index]), worst))

    def _room(self, notable: bool, sampled: bool) -> bool:
        if notable and self._allowance.take():
            return True
        if sampled and self._sampled < KEPT_SAMPLED:
            self._sampled += 1
            return True
        self.dropped += 1
        return False

    def _trace(
        self,
        record: Record,
        ended: Ended,
        outcome: str,
        divergent: bool = False,
        divergences: tuple[tuple[str, float], ...] = (),
    ) -> ShadowTrace:
        return ShadowTrace(
            call=_call(record, self._model),
            unsampled=not record.sampled,
            model=self._model,
            version=self._version,
            outcome=outcome,
            divergent=divergent,
            start_ns=ended.start_ns,
            end_ns=ended.end_ns,
            divergences=divergences,
        )


class _Allowance:
    """So many a second on the average, and at most a burst of them at once."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._at = float(burst), clock()

    def take(self) -> bool:
        """Takes one, if one is left."""
        if self._left < 1:
            now = self._clock()
            self._left, self._at = min(self._burst, self._left + (now - self._at) * self._rate), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _call(record: Record, model: str) -> CallTrace:
    """Returns the primary's call; only answered calls are mirrored, so that its status is OK."""
    return CallTrace(
        method=METHOD,
        status="OK",
        trace_id=record.trace_id,
        span_id=record.span_id,
        parent_id=record.parent_id,
        trace_state=record.trace_state.decode(errors="replace"),
        start_ns=record.start_ns,
        end_ns=record.end_ns,
        peer=record.peer.decode(errors="replace"),
        model=model,
        version=record.primary,
        run_start_ns=record.run_start_ns,
        run_end_ns=record.run_end_ns,
    )
