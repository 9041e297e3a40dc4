"""Counts and traces as frontends, workers and control make them, small enough to be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gnomon_server.telemetry import DriftState, PairCounts, Snapshot
from gnomon_server.wire.counts import CallCount, HistogramCounts, InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, CALL_BOUNDS, DIVERGENCE_BOUNDS, DURATION_BOUNDS, Histogram
from gnomon_server.wire.tallies import OutputTally
from gnomon_server.wire.traces import CallTrace, ShadowTrace

INFER = "inference.GRPCInferenceService/ModelInfer"
# Nanoseconds since the epoch.
BEGAN = 1_795_000_000_000_000_000
COMPARED_SINCE = BEGAN - 5_000_000_000
NOW = BEGAN + 60_000_000_000

CALL = CallTrace(
    method=INFER,
    status="OK",
    trace_id=bytes.fromhex("0af7651916cd43dd8448eb211c80319c"),
    span_id=0x8000000000000005,
    parent_id=0xB7AD6B7169203331,
    trace_state="vendor=a,other=b",
    start_ns=BEGAN + 1_000,
    end_ns=BEGAN + 9_000,
    peer="ipv4:127.0.0.1:53478",
    model="churn",
    version=1,
    run_start_ns=BEGAN + 3_000,
    run_end_ns=BEGAN + 7_000,
)
SHADOW = ShadowTrace(
    call=CALL,
    unsampled=False,
    model="churn",
    version=2,
    outcome="compared",
    divergent=True,
    start_ns=BEGAN + 50_000,
    end_ns=BEGAN + 60_000,
    divergences=(("probabilities", 0.25), ("label", 1.0)),
)


def changed(value: Any, **fields: Any) -> Any:
    """Returns a copy of a message with other fields."""
    return msgspec.structs.replace(value, **fields)


def histogram(bounds: Sequence[float], *values: float) -> HistogramCounts:
    """Returns a histogram of these values."""
    made = Histogram(bounds)
    for value in values:
        made.add(value)
    return made.snapshot()


def inference(
    role: str = "primary", error: str = "", seconds: Sequence[float] = (0.002,), rows: Sequence[float] = (1,)
) -> InferenceCount:
    """Returns requests that churn's version 1 ran; each run takes half of its request."""
    durations = histogram(DURATION_BOUNDS, *seconds)
    runs = histogram(DURATION_BOUNDS, *(value / 2 for value in seconds))
    return InferenceCount("churn", 1, role, error, durations, runs, histogram(BATCH_BOUNDS, *rows))


def pair(**fields: Any) -> PairCounts:
    """Returns five compared requests of version 2, one of which disagrees, and one timeout."""
    rows = histogram(DIVERGENCE_BOUNDS, 0, 0, 0, 0, 0.25)
    values: dict[str, Any] = {
        "model": "churn",
        "shadow": 2,
        "outcomes": {"compared": 5, "timeout": 1},
        "disagreeing": 1,
        "outputs": (OutputTally("probabilities", "probabilities", 0.05, 5, 1, 0.25, 0.25, rows),),
        "shadow_runs": histogram(DURATION_BOUNDS, 0.001, 0.001, 0.004, 0.004, 0.004),
        "since_ns": COMPARED_SINCE,
    }
    return PairCounts(**(values | fields))


def snapshot(**fields: Any) -> Snapshot:
    """Returns everything at once."""
    values: dict[str, Any] = {
        "since_ns": BEGAN,
        "time_ns": NOW,
        "calls": (
            CallCount(INFER, "OK", histogram(CALL_BOUNDS, 0.002, 0.3)),
            CallCount(INFER, "NOT_FOUND", histogram(CALL_BOUNDS, 0.001)),
            CallCount(INFER, "INTERNAL", histogram(CALL_BOUNDS, 0.02)),
        ),
        "inferences": (inference(seconds=(0.002, 0.3), rows=(1, 8)), inference(error="INTERNAL", seconds=(0.02,))),
        "pairs": (pair(),),
        "queue_depths": {("churn", 2): 3},
        "shares": {("churn", 2): 0.125},
        "verdicts": {("churn", 2): "keep watching"},
        "drifts": (DriftState("churn", 1, "age", 0.5, True), DriftState("churn", 1, "city", 0.25, False)),
        "states": {("churn", 1): "ready", ("churn", 2): "loading"},
        "switches": {("churn", "promotion"): 2, ("churn", "rollback"): 0},
        "canaries": {("churn", 2): 0.25},
        "steps": {("churn", 2): 2},
        "deliveries": {("churn", 2): "stuck"},
        "in_flight": 4,
    }
    return Snapshot(**(values | fields))
