"""Repetitions: what requests that were run again say of the primary itself, and of the shadow alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from typing import Final

import msgspec
import numpy as np

from gnomon_protos import control_pb2
from gnomon_server.control import latencies
from gnomon_server.control.evidence import Evidence
from gnomon_server.settings import Policy
from gnomon_server.statistics import bounds
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire import sketch
from gnomon_server.wire.counts import SketchCounts
from gnomon_server.wire.metrics import EXCESS
from gnomon_server.wire.tallies import MetricCounts, RepeatedOutput, RepeatTally

# Each bound of an interval is wrong with this probability at most.
ALPHA: Final = 0.025
NONE: Final = RepeatTally()


def merge(one: RepeatTally, other: RepeatTally) -> RepeatTally:
    """Adds two tallies."""
    if not other.requests or not one.requests:
        return one if one.requests else other
    return RepeatTally(
        requests=one.requests + other.requests,
        own_disagreeing=one.own_disagreeing + other.own_disagreeing,
        own_agreement_sum=one.own_agreement_sum + other.own_agreement_sum,
        shadow_agreement_sum=one.shadow_agreement_sum + other.shadow_agreement_sum,
        excess=tuple(a + b for a, b in zip(one.excess, other.excess, strict=True)),
        outputs=_outputs((*one.outputs, *other.outputs)),
        own_times=sketch.merge((one.own_times, other.own_times)),
        shadow_times=sketch.merge((one.shadow_times, other.shadow_times)),
    )


def net(evidence: Evidence, tally: RepeatTally, policy: Policy) -> Evidence:
    """Returns the evidence by which a policy judges: where the primary disagrees with itself, with what is beyond that.

    What it disagrees with itself by less than a tenth of the tolerance is not worth the requests that this takes.
    """
    observed = evidence.observed
    if policy.labels or not tally.requests or 1 - tally.own_agreement_sum / tally.requests <= policy.tolerance / 10:
        return evidence
    metrics = (*observed.metrics, MetricCounts(EXCESS, tally.excess, tally.excess))
    changed = msgspec.structs.replace(observed, basis=f"{observed.basis}+net", metrics=metrics)
    return replace(evidence, observed=changed)


def report(tally: RepeatTally, primary_times: SketchCounts) -> control_pb2.Repetition | None:
    """Returns what to say of a tally; `primary_times` are those of all requests. None where nothing was repeated."""
    if not tally.requests:
        return None
    excess = np.array(tally.excess)
    low, high = (2 * bound(SYM64, excess, ALPHA) - 1 for bound in (bounds.lower, bounds.upper))
    message = control_pb2.Repetition(
        requests=tally.requests,
        own_disagreeing=tally.own_disagreeing,
        own_agreement=tally.own_agreement_sum / tally.requests,
        shadow_agreement=tally.shadow_agreement_sum / tally.requests,
        excess=control_pb2.Interval(
            estimate=(tally.own_agreement_sum - tally.shadow_agreement_sum) / tally.requests,
            low=low,
            high=high,
            method=f"{1 - 2 * ALPHA:.0%} at all times at once".replace("%", " %"),
        ),
        own_latency=latencies.latency(tally.own_times, ALPHA),
        shadow_latency=latencies.latency(tally.shadow_times, ALPHA),
        as_primary=latencies.transferred(primary_times, tally.own_times, tally.shadow_times, ALPHA),
    )
    message.note = _note(message)
    return message


def divergences(tally: RepeatTally, output: str) -> tuple[float, float]:
    """Returns the mean divergence of an output's repeated rows: of the primary's own version, and of the shadow."""
    for one in tally.outputs:
        if one.output == output and one.rows:
            return one.own_divergence_sum / one.rows, one.shadow_divergence_sum / one.rows
    return 0.0, 0.0


def _note(found: control_pb2.Repetition) -> str:
    if not found.own_disagreeing:
        return ""
    of = f"{found.own_disagreeing:,} of {found.requests:,} requests that were run again"
    blame = f"of the shadow's disagreement of {1 - found.shadow_agreement:.2%} on them"
    span = f"between {found.excess.low:.2%} and {found.excess.high:.2%}"
    return (
        f"the primary is not deterministic: it disagrees with itself in {of}; {blame}, "
        f"{found.excess.estimate:.2%} are beyond that, {span}"
    ).replace("%", " %")


def _outputs(tallies: Iterable[RepeatedOutput]) -> tuple[RepeatedOutput, ...]:
    by_name: dict[str, list[RepeatedOutput]] = {}
    for tally in tallies:
        by_name.setdefault(tally.output, []).append(tally)
    return tuple(reduce(_sum, parts) for parts in by_name.values())


def _sum(one: RepeatedOutput, other: RepeatedOutput) -> RepeatedOutput:
    return RepeatedOutput(
        output=one.output,
        rows=one.rows + other.rows,
        own_divergence_sum=one.own_divergence_sum + other.own_divergence_sum,
        shadow_divergence_sum=one.shadow_divergence_sum + other.shadow_divergence_sum,
    )
