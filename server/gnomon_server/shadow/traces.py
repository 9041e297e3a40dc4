"""Traces: the mirrored requests worth a span, kept until the next report."""

from __future__ import annotations

from typing import Final

import numpy as np

from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.outcome import COMPARED, SHADOW_ERROR, Ended, Uncompared
from gnomon_server.wire.record import Record
from gnomon_server.wire.traces import CallTrace, ShadowTrace

METHOD: Final = "inference.GRPCInferenceService/ModelInfer"
# Traces a report may carry. A span costs its exporter about 50 microseconds.
KEPT: Final = 500
# Of these: requests that agreed, so that they leave room for those that did not.
KEPT_AGREEING: Final = 250


class Traces:
    """Collects traces of divergent, failed and sampled requests that the shadow ran."""

    def __init__(self, model: str, version: int) -> None:
        self._model = model
        self._version = version
        self._kept: list[ShadowTrace] = []
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
        kept, self._kept = tuple(self._kept), []
        return kept

    def _settle_uncompared(self, ended: Uncompared) -> None:
        for record in ended.records:
            failed = ended.outcome == SHADOW_ERROR
            if (failed or record.sampled) and self._room(failed):
                self._kept.append(self._trace(record, ended, ended.outcome))

    def _settle_compared(self, ended: Compared) -> None:
        sampled = [request.record.sampled for request in ended.batch.requests]
        divergent = ended.agreement < 1
        ends = ended.batch.rows.cumsum()
        for index in np.flatnonzero(divergent | sampled):
            if self._room(bool(divergent[index])):
                request = ended.batch.requests[index]
                rows = slice(ends[index] - request.fit.rows, ends[index])
                worst = tuple((name, float(d[rows].max(initial=0))) for name, d in ended.divergences.items())
                self._kept.append(self._trace(request.record, ended, COMPARED, bool(divergent[index]), worst))

    def _room(self, notable: bool) -> bool:
        if len(self._kept) < (KEPT if notable else KEPT_AGREEING):
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
