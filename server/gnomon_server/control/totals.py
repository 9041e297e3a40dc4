"""Totals of what frontends have counted: reports that add up."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon_server.wire import sizes
from gnomon_server.wire.counts import CallCount, InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, CALL_BOUNDS, DURATION_BOUNDS, merge
from gnomon_server.wire.messages import FrontendReport


def added(one: FrontendReport, other: FrontendReport) -> FrontendReport:
    """Returns the counts of two reports together; traces and feeds are counted elsewhere and left out."""
    return FrontendReport(
        calls=_calls((*one.calls, *other.calls)),
        inferences=_inferences((*one.inferences, *other.inferences)),
        feeds=(),
        traces=(),
        traces_dropped=one.traces_dropped + other.traces_dropped,
        in_flight=one.in_flight + other.in_flight,
        sequences_evicted=one.sequences_evicted + other.sequences_evicted,
    )


def _calls(counts: Sequence[CallCount]) -> tuple[CallCount, ...]:
    sums: dict[tuple[str, str], CallCount] = {}
    for count in counts:
        key = (count.method, count.status)
        known = sums.get(key)
        durations = (known.durations, count.durations) if known else (count.durations,)
        sums[key] = CallCount(*key, merge(durations, CALL_BOUNDS))
    return tuple(sums.values())


def _inferences(counts: Sequence[InferenceCount]) -> tuple[InferenceCount, ...]:
    sums: dict[tuple[str, int, str, str], InferenceCount] = {}
    for count in counts:
        key = (count.model, count.version, count.role, count.error)
        same = (sums[key], count) if key in sums else (count,)
        sums[key] = InferenceCount(
            *key,
            durations=merge((part.durations for part in same), DURATION_BOUNDS),
            runs=merge((part.runs for part in same), DURATION_BOUNDS),
            batches=merge((part.batches for part in same), BATCH_BOUNDS),
            queue=sum(part.queue for part in same),
            inputs=sum(part.inputs for part in same),
            outputs=sum(part.outputs for part in same),
            last_ns=max(part.last_ns for part in same),
            sizes=sizes.merge(size for part in same for size in part.sizes),
        )
    return tuple(sums.values())
