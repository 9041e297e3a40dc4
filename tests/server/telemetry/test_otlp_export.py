"""The exporters' life: nothing configured, refused, absent, and the last flush."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import telemetry_samples as samples
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as wire
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service
from receivers import free_ports

from gnomon_server.errors import InvalidRequest
from gnomon_server.telemetry import Snapshot, Telemetry


class Collector(service.MetricsServiceServicer):
    """Takes metrics; refuses the first `refusals` exports."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.asked = threading.Semaphore(0)
        self.received: list[wire.ExportMetricsServiceRequest] = []

    def Export(  # noqa: N802
        self, request: wire.ExportMetricsServiceRequest, context: Any
    ) -> wire.ExportMetricsServiceResponse:
        self.asked.release()
        if self.refusals:
            self.refusals -= 1
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        self.received.append(request)
        return wire.ExportMetricsServiceResponse()

    def wait(self, exports: int) -> None:
        for _ in range(exports):
            assert self.asked.acquire(timeout=60), "expected another export"


@contextmanager
def running(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_MetricsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://127.0.0.1:{port}")
    yield collector
    server.stop(None).wait()


def test_the_last_counts_are_sent_at_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Collector(), monkeypatch) as collector:
        telemetry = Telemetry.from_environment(os.environ, "1")
        telemetry.start(samples.snapshot)
        telemetry.shutdown()
    (request,) = collector.received
    names = {metric.name for metric in request.resource_metrics[0].scope_metrics[0].metrics}
    assert "gnomon.inference.requests" in names
    assert not any(name.startswith("nv_") for name in names)


def test_a_streak_of_failures_is_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
    with caplog.at_level(logging.INFO), running(Collector(refusals=4), monkeypatch) as collector:
        telemetry = Telemetry.from_environment(os.environ, "1")
        telemetry.start(samples.snapshot)
        collector.wait(exports=6)
        telemetry.shutdown()
    (failure,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "PERMISSION_DENIED" in failure.getMessage()
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.INFO] == ["metrics are exported again"]


def test_a_collection_that_fails_once_does_not_end_the_export(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = iter(range(100))

    def collect() -> Snapshot:
        if next(attempts) == 0:
            raise RuntimeError("state in between")
        return samples.snapshot()

    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
    with running(Collector(), monkeypatch) as collector:
        telemetry = Telemetry.from_environment(os.environ, "1")
        telemetry.start(collect)
        collector.wait(exports=1)
        telemetry.shutdown()
    assert "state in between" in caplog.text


def test_an_absent_receiver_holds_up_no_shutdown_and_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (nobody,) = free_ports(1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{nobody}")
    telemetry = Telemetry.from_environment(os.environ, "1")
    telemetry.start(samples.snapshot)
    telemetry.record([samples.CALL], [samples.SHADOW])
    telemetry.shutdown(timeout=0.5)
    assert "gnomon-metrics" not in {thread.name for thread in threading.enumerate()}
    assert "failed to export metrics" in caplog.text
    assert "failed to export traces" in caplog.text


def test_a_shutdown_leaves_the_sdks_log_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
    before = list(log.filters)
    with running(Collector(), monkeypatch):
        Telemetry.from_environment(os.environ, "1").shutdown()
    assert log.filters == before


def test_without_settings_nothing_is_exported_and_no_sdk_is_loaded() -> None:
    code = """
import sys
from gnomon_server.telemetry import Telemetry
telemetry = Telemetry.from_environment({}, "1")
telemetry.start(lambda: 1 / 0)
telemetry.record([None], [None])
telemetry.shutdown()
print([name for name in sys.modules if name.startswith(("opentelemetry", "grpc"))])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")]
)
def test_a_setting_that_the_sdk_refuses_is_said_in_one_line(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest, match=value):
        Telemetry.from_environment(os.environ, "1")


def test_an_impossible_interval_is_said_and_the_default_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "often")
    with running(Collector(), monkeypatch):
        Telemetry.from_environment(os.environ, "1").shutdown()
    assert "OTEL_METRIC_EXPORT_INTERVAL: expected milliseconds, received 'often': using 60000" in caplog.text


def test_what_is_not_offered_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    Telemetry.from_environment({"OTEL_TRACES_EXPORTER": "zipkin"}, "1")
    assert "expected otlp or none, received 'zipkin'" in caplog.text
