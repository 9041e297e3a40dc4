"""Metric families as Prometheus text, format 0.0.4.

Written here and not with prometheus_client, whose counters always end in `_total`: Triton's do not. Names follow the
OpenTelemetry specification, "Prometheus and OpenMetrics compatibility": dots become underscores, seconds and counters
get their suffix, a unit in braces gets none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from gnomon_server.telemetry.families import Attributes, Family, Point
from gnomon_server.wire.counts import HistogramCounts

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNITS: Final = {"s": "_seconds"}
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render(families: Iterable[Family]) -> tuple[bytes, str]:
    """Returns the text, UTF-8, and its content type."""
    lines = (line for family in families for line in _lines(family))
    return "".join(f"{line}\n" for line in lines).encode(), CONTENT_TYPE


def _lines(family: Family) -> Iterator[str]:
    name = _name(family)
    yield f"# HELP {name} {family.description}"
    yield f"# TYPE {name} {family.kind}"
    for point in family.points:
        yield from _samples(name, point, family.bounds)


def _name(family: Family) -> str:
    if family.verbatim:
        return family.name
    total = "_total" if family.kind == "counter" else ""
    return f"{_underscored(family.name)}{_UNITS.get(family.unit, '')}{total}"


def _samples(name: str, point: Point, bounds: Sequence[float]) -> Iterator[str]:
    labels = tuple((_underscored(key), value) for key, value in point.attributes)
    if not isinstance(point.value, HistogramCounts):
        yield f"{name}{_braces(labels)} {point.value}"
        return
    ends = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    for end, count in zip(ends, accumulate(point.value.counts), strict=True):
        yield f"{name}_bucket{_braces((*labels, ('le', end)))} {count}"
    yield f"{name}_sum{_braces(labels)} {point.value.total!r}"
    yield f"{name}_count{_braces(labels)} {sum(point.value.counts)}"


def _underscored(name: str) -> str:
    return name.replace(".", "_")


def _braces(labels: Attributes) -> str:
    inside = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels)
    return f"{{{inside}}}" if inside else ""
