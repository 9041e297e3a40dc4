"""Latencies: durations of model runs as the messages of `gnomon.v1`, each quantile with bounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from gnomon_protos import control_pb2
from gnomon_server.statistics import quantiles
from gnomon_server.wire.counts import SketchCounts
from gnomon_server.wire.sketch import edge

P50: Final = 0.5
P99: Final = 0.99


@dataclass(frozen=True)
class _Quantile:
    """Seconds; the bounds are 0 and infinite where nothing bounds it."""

    estimate: float = 0.0
    low: float = 0.0
    high: float = inf


def latency(times: SketchCounts, alpha: float) -> control_pb2.Latency:
    """Returns the latencies of a sketch; zeros without data. Each bound is wrong with probability alpha at most."""
    mean = times.total / times.count if times.buckets else 0.0
    return _message(times.count, mean, _quantile(times, P50, alpha), _quantile(times, P99, alpha))


def transferred(primary: SketchCounts, own: SketchCounts, shadow: SketchCounts, alpha: float) -> control_pb2.Latency:
    """Returns what a shadow would take in its primary's place.

    That is what the primary takes, by the ratio of the two where both ran alone, on the same requests, beside each
    other in the shadow's worker. `own` is the primary's version there. Zeros where there is too little to bound it.
    """
    sides = (primary, own, shadow)
    if not all(times.buckets for times in sides):
        return control_pb2.Latency()
    means = [times.total / times.count for times in sides]
    moved = []
    for p in (P50, P99):
        # Three bounds must hold together.
        a, b, c = (_quantile(times, p, alpha / 3) for times in sides)
        known = b.low > 0 and inf not in (a.high, c.high)
        moved.append(
            _Quantile(
                estimate=a.estimate * c.estimate / b.estimate,
                low=a.low * c.low / b.high,
                high=a.high * c.high / b.low if known else inf,
            )
        )
    # A few runs say next to nothing, and one that the system held up would decide.
    if moved[0].high == inf:
        return control_pb2.Latency()
    return _message(own.count, means[0] * means[2] / max(means[1], 1e-9), *moved)


def _quantile(times: SketchCounts, p: float, alpha: float) -> _Quantile:
    if not times.buckets:
        return _Quantile()
    low, high = quantiles.interval(times.buckets, p, alpha)
    return _Quantile(
        estimate=edge(quantiles.quantile(times.buckets, p)),
        low=edge(low - 1) if low is not None else 0.0,
        high=edge(high) if high is not None else inf,
    )


def _message(count: int, mean: float, p50: _Quantile, p99: _Quantile) -> control_pb2.Latency:
    return control_pb2.Latency(
        count=count,
        mean=mean,
        p50=p50.estimate,
        p50_low=p50.low,
        p50_high=p50.high,
        p99=p99.estimate,
        p99_low=p99.low,
        p99_high=p99.high,
    )
