"""The exporters: spans in batches, metrics periodically, each from a thread of its own, over OTLP/gRPC.

Nothing here raises into a running server: a receiver that is away costs data and one log line. Endpoints, headers, TLS,
timeouts, batch sizes and the resource come from the process's OTEL_* variables, as the SDK reads them.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Final

from opentelemetry.exporter.otlp.proto.grpc.exporter import InvalidCompressionValueException
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gnomon_server.errors import InvalidRequest
from gnomon_server.telemetry import conventions as names
from gnomon_server.telemetry.families import families
from gnomon_server.telemetry.metrics import metrics_data
from gnomon_server.telemetry.signals import metrics_enabled, tracing_enabled
from gnomon_server.telemetry.snapshot import Snapshot
from gnomon_server.telemetry.spans import SpanBuilder
from gnomon_server.wire.traces import CallTrace, ShadowTrace

_log = logging.getLogger(__name__)

# Milliseconds: the specification's default of OTEL_METRIC_EXPORT_INTERVAL.
_DEFAULT_INTERVAL: Final = 60_000.0
# Unsampled calls that are remembered, so that several divergent shadows of one call export its spans once.
_REMEMBERED_CALLS: Final = 8192
# Seconds for an export to notice that its connection is closed.
_AFTER_CLOSING: Final = 1.0


class OtlpExport:
    """The exporters that the environment asks for."""

    def __init__(self, environ: Mapping[str, str], version: str) -> None:
        """Takes the process's own environment and the server's version.

        Raises InvalidRequest for a variable that the SDK refuses.
        """
        resource, scope = _resource(version), InstrumentationScope(names.SCOPE, version, names.SCHEMA_URL)
        self._failures = _Failures()
        try:
            self._spans = SpanExport(resource, scope, self._failures) if tracing_enabled(environ) else None
            self._metrics = (
                MetricExport(resource, scope, self._failures, _interval(environ)) if metrics_enabled(environ) else None
            )
        except (ValueError, RuntimeError, InvalidCompressionValueException) as error:
            raise InvalidRequest(f"OTEL_*: expected settings of an OTLP exporter, received: {error}") from None

    def start(self, collect: Callable[[], Snapshot]) -> None:
        """Begins to export metrics."""
        if self._metrics:
            self._metrics.start(collect)

    def record(self, calls: Sequence[CallTrace], shadows: Sequence[ShadowTrace]) -> None:
        """Queues the spans of finished calls and shadow runs."""
        if self._spans:
            self._spans.record(calls, shadows)

    def shutdown(self, timeout: float) -> None:
        """Sends what is left, in at most `timeout` seconds for both signals together, and closes the connections."""
        deadline = monotonic() + timeout
        if self._metrics:
            self._metrics.stop()
        if self._spans:
            self._spans.shutdown(timeout)
        if self._metrics:
            self._metrics.join(max(0.0, deadline - monotonic()))
        self._failures.close()


class SpanExport:
    """Makes spans and sends them in batches."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, failures: _Failures) -> None:
        self._builder = SpanBuilder(resource, scope)
        self._exporter = _Watched(OTLPSpanExporter(), failures)
        self._processor: SpanProcessor = BatchSpanProcessor(self._exporter)
        self._exported: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    def record(self, calls: Sequence[CallTrace], shadows: Sequence[ShadowTrace]) -> None:
        """Queues the spans; where the queue is full the SDK drops the oldest and says so. One thread at a time."""
        for call in calls:
            self._queue(self._builder.call(call))
        for shadow in shadows:
            if shadow.unsampled and self._first(shadow.call):
                self._queue(self._builder.call(shadow.call))
            self._queue([self._builder.shadow(shadow)])

    def shutdown(self, timeout: float) -> None:
        """Sends what is queued, in at most `timeout` seconds."""
        # The processor would wait 30 s; closing its exporter ends the export that it waits for.
        watchdog = threading.Timer(timeout, self._exporter.shutdown)
        watchdog.daemon = True
        watchdog.start()
        self._processor.shutdown()
        watchdog.cancel()

    def _queue(self, spans: Sequence[ReadableSpan]) -> None:
        for span in spans:
            self._processor.on_end(span)

    def _first(self, call: CallTrace) -> bool:
        key = (call.trace_id, call.span_id)
        if key in self._exported:
            return False
        self._exported[key] = None
        if len(self._exported) > _REMEMBERED_CALLS:
            self._exported.popitem(last=False)
        return True


class MetricExport:
    """Collects and sends the metrics once an interval, and once more at the end."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, failures: _Failures, interval: float) -> None:
        self._resource, self._scope, self._failures, self._interval = resource, scope, failures, interval
        self._exporter = OTLPMetricExporter()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, collect: Callable[[], Snapshot]) -> None:
        """Begins; `collect` is called in the export's thread."""
        self._thread = threading.Thread(target=self._run, args=(collect,), name="gnomon-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begins the last export."""
        self._stopping.set()

    def join(self, timeout: float) -> None:
        """Waits for the last export, at most `timeout` seconds, and closes the connection."""
        if self._thread:
            self._thread.join(timeout)
        # Ends an export that is still waiting for its receiver.
        self._exporter.shutdown()
        if self._thread:
            self._thread.join(_AFTER_CLOSING)

    def _run(self, collect: Callable[[], Snapshot]) -> None:
        while not self._stopping.wait(self._interval):
            self._export(collect)
        self._export(collect)

    def _export(self, collect: Callable[[], Snapshot]) -> None:
        try:
            snapshot = collect()
            data = metrics_data(families(snapshot), snapshot.time_ns, self._resource, self._scope)
            result = self._exporter.export(data)
        except Exception:  # noqa: BLE001 - this thread has no caller: whatever fails once must not end the export for good
            _log.exception("the metrics of this interval are not exported")
            return
        self._failures.ended("metrics", result is MetricExportResult.SUCCESS)


class _Failures(logging.Filter):
    """Lets the first failure of a streak through to the log, where the SDK would log every one and every retry."""

    def __init__(self) -> None:
        super().__init__()
        self._failing: set[str] = set()
        self._logger = logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter")
        self._logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return False
        # The exporter's first argument is its signal: "Failed to export %s to %s, error code: %s, ...".
        signal = str(record.args[0]) if isinstance(record.args, tuple) and record.args else ""
        first = signal not in self._failing
        self._failing.add(signal)
        return first

    def ended(self, signal: str, success: bool) -> None:
        if success and signal in self._failing:
            self._failing.discard(signal)
            _log.info("%s are exported again", signal)
        elif not success and signal not in self._failing:
            # The SDK says nothing where a shutdown cut its retries short.
            self._failing.add(signal)
            _log.error("failed to export %s", signal)

    def close(self) -> None:
        self._logger.removeFilter(self)


class _Watched(SpanExporter):
    """An exporter that ends failure streaks and may be shut down twice."""

    def __init__(self, exporter: SpanExporter, failures: _Failures) -> None:
        self._exporter, self._failures = exporter, failures
        self._closed = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._failures.ended("traces", result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        if self._closed.acquire(blocking=False):
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _resource(version: str) -> Resource:
    given = OTELResourceDetector().detect().attributes
    return Resource.create({SERVICE_NAME: names.SCOPE, SERVICE_VERSION: version, **given})


def _interval(environ: Mapping[str, str]) -> float:
    """Returns the seconds between two exports of metrics."""
    text = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    try:
        milliseconds = float(text or _DEFAULT_INTERVAL)
    except ValueError:
        milliseconds = 0.0
    if not 0 < milliseconds < threading.TIMEOUT_MAX * 1000:
        _log.warning("OTEL_METRIC_EXPORT_INTERVAL: expected milliseconds, received %r: using 60000", text)
        milliseconds = _DEFAULT_INTERVAL
    return milliseconds / 1000
