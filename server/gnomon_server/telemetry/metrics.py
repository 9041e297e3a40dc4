"""Metric families as the SDK's metric data, cumulative since the counting began."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gnomon_server.telemetry.families import Family, Point
from gnomon_server.wire.counts import HistogramCounts

_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
# Nobody keeps them. The wire format has them as optional, the SDK's encoder leaves None out, only its types say float.
_UNKNOWN: Final = cast("float", None)


def metrics_data(
    families: Iterable[Family], time_ns: int, resource: Resource, scope: InstrumentationScope
) -> MetricsData:
    """Returns what an OTLP exporter sends."""
    metrics = [
        Metric(family.name, family.description, family.unit, _data(family, time_ns))
        for family in families
        if not family.verbatim
    ]
    in_scope = ScopeMetrics(scope, metrics, scope.schema_url or "")
    return MetricsData([ResourceMetrics(resource, [in_scope], resource.schema_url)])


def _data(family: Family, time_ns: int) -> Sum | Gauge | Histogram:
    if family.kind == "histogram":
        bounds = tuple(family.bounds)
        return Histogram([_histogram(point, bounds, time_ns) for point in family.points], _CUMULATIVE)
    numbers = [_number(point, time_ns) for point in family.points]
    return Gauge(numbers) if family.kind == "gauge" else Sum(numbers, _CUMULATIVE, is_monotonic=True)


def _number(point: Point, time_ns: int) -> NumberDataPoint:
    return NumberDataPoint(dict(point.attributes), point.since_ns, time_ns, cast("int", point.value))


def _histogram(point: Point, bounds: tuple[float, ...], time_ns: int) -> HistogramDataPoint:
    value = cast("HistogramCounts", point.value)
    return HistogramDataPoint(
        attributes=dict(point.attributes),
        start_time_unix_nano=point.since_ns,
        time_unix_nano=time_ns,
        count=sum(value.counts),
        sum=value.total,
        bucket_counts=value.counts,
        explicit_bounds=bounds,
        min=_UNKNOWN,
        max=_UNKNOWN,
    )
