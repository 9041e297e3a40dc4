"""The same counts under Triton's names, so that dashboards made for Triton keep working.

Names, units and counting rules: triton-inference-server/server docs/user_guide/metrics.md. Durations are cumulative
microseconds of successful requests. gnomon has no cache, and none of the metrics of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from gnomon_server.telemetry import conventions as names
from gnomon_server.telemetry.families import Family, Point, added
from gnomon_server.telemetry.snapshot import Snapshot
from gnomon_server.wire.counts import InferenceCount

# What Triton calls REJECTED is a request whose time ran out before its run.
REASONS: Final = {"DEADLINE_EXCEEDED": "REJECTED", "CANCELLED": "CANCELED", "INTERNAL": "BACKEND"}
OTHER: Final = "OTHER"
_ALL_REASONS: Final = (*REASONS.values(), OTHER)


def triton_families(snapshot: Snapshot) -> list[Family]:
    """Returns Triton's metrics; shadow runs are left out, because Triton has none."""
    served = [count for count in snapshot.inferences if count.role != names.SHADOW]
    since = snapshot.since_ns

    def succeeded(name: str, text: str, value: Callable[[InferenceCount], int]) -> Family:
        # A failed request adds 0, so that all series of a version exist from its first request on.
        points = (Point(_labels(c), 0 if c.error else value(c), since) for c in served)
        return _counter(name, text, points)

    made = [
        succeeded("nv_inference_request_success", "Requests that succeeded", lambda c: sum(c.durations.counts)),
        _failures(served, since),
        succeeded("nv_inference_count", "Rows of successful requests", lambda c: round(c.batches.total)),
        succeeded("nv_inference_exec_count", "Model runs", lambda c: sum(c.batches.counts)),
        succeeded(
            "nv_inference_request_duration_us",
            "Cumulative duration of successful requests, microseconds",
            lambda c: _microseconds(c.durations.total),
        ),
        succeeded(
            "nv_inference_compute_infer_duration_us",
            "Cumulative duration of model runs, microseconds",
            lambda c: _microseconds(c.runs.total),
        ),
        succeeded(
            "nv_inference_queue_duration_us",
            "Cumulative time that requests waited for a model run, microseconds",
            lambda c: _microseconds(c.queue),
        ),
        succeeded(
            "nv_inference_compute_input_duration_us",
            "Cumulative duration of reading and joining inputs, microseconds",
            lambda c: _microseconds(c.inputs),
        ),
        succeeded(
            "nv_inference_compute_output_duration_us",
            "Cumulative duration of writing answers, microseconds",
            lambda c: _microseconds(c.outputs),
        ),
    ]
    return [family for family in made if family.points]


def _failures(served: Iterable[InferenceCount], since_ns: int) -> Family:
    points = (
        Point((*_labels(c), ("reason", reason)), sum(c.durations.counts) if _is(reason, c.error) else 0, since_ns)
        for c in served
        for reason in _ALL_REASONS
    )
    return _counter("nv_inference_request_failure", "Requests that failed, by reason", points)


def _is(reason: str, error: str) -> bool:
    return bool(error) and REASONS.get(error, OTHER) == reason


def _counter(name: str, text: str, points: Iterable[Point]) -> Family:
    return Family(name, "", "counter", text, added(points), verbatim=True)


def _labels(count: InferenceCount) -> tuple[tuple[str, str], ...]:
    return (("model", count.model), ("version", str(count.version)))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
