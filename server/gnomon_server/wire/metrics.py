"""Metrics: the names under which a worker's observations travel, and how their sums add up."""

from __future__ import annotations

from typing import Final

from gnomon_server.wire.tallies import Serial

# Share of a request's rows on which any output disagrees.
DISAGREEMENT: Final = "disagreement"
# Whether the shadow had no answer, by its own fault.
FAILURE: Final = "failure"
# Whether the shadow's run took longer than the limit, less whether the primary's did, as (e + 1)/2.
LATENCY: Final = "latency"
# Whether the shadow is wrong, less whether the primary is, where the truth is known, as (e + 1)/2.
LOSS: Final = "loss"
# The disagreement less that of the primary with itself, on requests that were run again, as (e + 1)/2.
EXCESS: Final = "excess"
_OUTPUT: Final = "output "
_SEGMENT: Final = "segment "


def of_output(name: str) -> str:
    """Returns the metric of an output's mean divergence."""
    return _OUTPUT + name


def output_of(metric: str) -> str:
    """Returns the output of a metric, or nothing if it is another one."""
    return metric.removeprefix(_OUTPUT) if metric.startswith(_OUTPUT) else ""


def of_segment(segment: str) -> str:
    """Returns the metric of the disagreement in a segment: of its predicate in counts, of its name in findings."""
    return _SEGMENT + segment


def segment_of(metric: str) -> str:
    """Returns the segment of a metric, or nothing if it is another one."""
    return metric.removeprefix(_SEGMENT) if metric.startswith(_SEGMENT) else ""


def added(one: Serial, other: Serial) -> Serial:
    """Adds the sums over two chains of blocks."""
    return Serial(
        blocks=one.blocks + other.blocks,
        total=one.total + other.total,
        squares=one.squares + other.squares,
        pairs=one.pairs + other.pairs,
        products=one.products + other.products,
    )
