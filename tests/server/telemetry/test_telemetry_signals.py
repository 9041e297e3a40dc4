"""Which variables switch which export on."""

from __future__ import annotations

import pytest

from gnomon_server.telemetry.signals import complaints, metrics_enabled, tracing_enabled

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False, False),
        (ENDPOINT, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4317"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:4317"}, False, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, False),
        ({"OTEL_METRICS_EXPORTER": " OTLP "}, False, True),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, True, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "prometheus"}, True, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, False, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "yes"}, True, True),
    ],
)
def test_a_signal_is_exported_where_an_endpoint_or_otlp_is_named(
    environ: dict[str, str], traces: bool, metrics: bool
) -> None:
    assert tracing_enabled(environ) is traces
    assert metrics_enabled(environ) is metrics


def test_what_is_not_offered_is_said() -> None:
    environ = {
        "OTEL_TRACES_EXPORTER": "console,otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
    assert complaints(environ) == (
        "OTEL_TRACES_EXPORTER: expected otlp or none, received 'console': ignored",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: expected grpc, received 'http/protobuf': exporting by grpc",
    )


def test_the_usual_settings_are_fine() -> None:
    assert complaints(ENDPOINT) == ()
