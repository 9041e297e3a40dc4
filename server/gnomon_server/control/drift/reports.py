"""Reports on drift, as the control API gives them."""

from __future__ import annotations

from collections.abc import Sequence

from gnomon_protos import control_pb2
from gnomon_server.control.drift.findings import ROWS, FeatureFinding, WindowFinding
from gnomon_server.control.times import rfc3339


def report(
    model: str, version: int, reason: str, seconds: float, waiting: int, findings: Sequence[WindowFinding]
) -> control_pb2.DriftReport:
    """Returns what is known of a model; `waiting` rows are in windows, of so many seconds, that were not judged."""
    return control_pb2.DriftReport(
        model=model,
        version=version,
        reason=reason,
        window_seconds=seconds,
        least_rows=ROWS,
        waiting_rows=waiting,
        windows=map(_window, findings),
    )


def _window(found: WindowFinding) -> control_pb2.DriftWindow:
    return control_pb2.DriftWindow(
        since=rfc3339(found.since), until=rfc3339(found.until), rows=found.rows, features=map(_feature, found.features)
    )


def _feature(found: FeatureFinding) -> control_pb2.DriftFeature:
    drift = found.drift
    return control_pb2.DriftFeature(
        name=found.name,
        output=found.output,
        distance=drift.distance,
        effect=drift.effect,
        usual_effect=found.usual_effect,
        missing=drift.missing,
        missing_reference=found.missing_reference,
        novel=drift.novel,
        changed=drift.changed,
        alarms=drift.alarms,
    )
