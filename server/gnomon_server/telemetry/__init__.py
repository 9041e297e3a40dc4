"""Traces and metrics of the server, for OpenTelemetry receivers and for Prometheus.

Frontends and shadow workers only count, and decide about sampling (`sampling`); the control process holds the one
`Telemetry` and exports. Importing this package loads nothing of OpenTelemetry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from gnomon_server.telemetry.families import Family, families
from gnomon_server.telemetry.prometheus import render
from gnomon_server.telemetry.signals import complaints, metrics_enabled, tracing_enabled
from gnomon_server.telemetry.snapshot import DriftState, PairCounts, Snapshot
from gnomon_server.telemetry.triton import triton_families
from gnomon_server.wire.traces import CallTrace, ShadowTrace

if TYPE_CHECKING:
    from gnomon_server.telemetry.otlp import OtlpExport

__all__ = [
    "DriftState",
    "Family",
    "PairCounts",
    "Snapshot",
    "Telemetry",
    "families",
    "metrics_page",
    "render",
    "triton_families",
]

_log = logging.getLogger(__name__)


class Telemetry:
    """What the control process exports; where nothing is configured, every method does nothing."""

    def __init__(self, export: OtlpExport | None) -> None:
        self._export = export

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], version: str) -> Telemetry:
        """Returns the telemetry that the process's own environment (`os.environ`) asks for.

        Raises InvalidRequest for a variable that the SDK refuses.
        """
        for complaint in complaints(environ):
            _log.warning("%s", complaint)
        if not (tracing_enabled(environ) or metrics_enabled(environ)):
            return cls(None)
        from gnomon_server.telemetry.otlp import OtlpExport

        return cls(OtlpExport(environ, version))

    def start(self, collect: Callable[[], Snapshot]) -> None:
        """Begins to export metrics; `collect` is called in another thread, once an interval and once at shutdown."""
        if self._export:
            self._export.start(collect)

    def record(self, calls: Sequence[CallTrace] = (), shadows: Sequence[ShadowTrace] = ()) -> None:
        """Exports the spans of finished calls and shadow runs; never waits. From one thread at a time.

        `calls` are sampled calls. A shadow's trace that is `unsampled` brings the spans of its call with it.
        """
        if self._export:
            self._export.record(calls, shadows)

    def shutdown(self, timeout: float = 5.0) -> None:
        """Sends what is left and stops; blocks for at most about `timeout` seconds, then drops what is not sent."""
        if self._export:
            self._export.shutdown(timeout)


def metrics_page(snapshot: Snapshot) -> tuple[bytes, str]:
    """Returns the body and content type of `/metrics`: gnomon's metrics and Triton's names for those that it has."""
    return render([*families(snapshot), *triton_families(snapshot)])
