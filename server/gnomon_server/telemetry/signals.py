"""Which signals are exported, decided from the standard OTEL_* variables.

One point differs from the specification, by which an unconfigured process exports to localhost: gnomon does not, so
that a server without a receiver has no exporter and logs no failures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Signal = Literal["TRACES", "METRICS"]
SIGNALS: Final[tuple[Signal, ...]] = ("TRACES", "METRICS")


def tracing_enabled(environ: Mapping[str, str]) -> bool:
    """Returns whether spans are exported."""
    return _enabled(environ, "TRACES")


def metrics_enabled(environ: Mapping[str, str]) -> bool:
    """Returns whether metrics are exported by OTLP; `/metrics` shows them in any case."""
    return _enabled(environ, "METRICS")


def complaints(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Returns one line for each variable that asks for what gnomon does not offer."""
    exporters = (
        f"OTEL_{signal}_EXPORTER: expected otlp or none, received '{exporter}': ignored"
        for signal in SIGNALS
        for exporter in _exporters(environ, signal)
        if exporter not in ("otlp", "none")
    )
    protocols = (
        f"{name}: expected grpc, received '{_value(environ, name)}': exporting by grpc"
        for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", *(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL" for signal in SIGNALS))
        if _value(environ, name) not in ("", "grpc")
    )
    return (*exporters, *protocols)


def _enabled(environ: Mapping[str, str], signal: Signal) -> bool:
    if _value(environ, "OTEL_SDK_DISABLED") == "true":
        return False
    exporters = _exporters(environ, signal)
    if exporters:
        return "otlp" in exporters
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(_value(environ, name) for name in endpoints)


def _exporters(environ: Mapping[str, str], signal: Signal) -> list[str]:
    return [name.strip() for name in _value(environ, f"OTEL_{signal}_EXPORTER").split(",") if name.strip()]


def _value(environ: Mapping[str, str], name: str) -> str:
    # An empty variable counts as unset, as the specification says.
    return environ.get(name, "").strip().lower()
