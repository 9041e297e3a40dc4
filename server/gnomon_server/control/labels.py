"""Labels: what those that came later say of a shadow, as a value that adds up, as evidence, and for a reader."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import reduce
from typing import Final, NamedTuple

import msgspec

from gnomon_protos import control_pb2
from gnomon_server.control.claims import claims
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.verdict import find
from gnomon_server.settings import Policy
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.labels import CohortCounts, LabelTally
from gnomon_server.wire.metrics import LOSS
from gnomon_server.wire.tallies import MetricCounts

NONE: Final = LabelTally()
# Seconds after its horizon in which the last report on a cohort has come, also from another server.
SETTLING: Final = 5.0
# Cohorts that are kept apart; the oldest are judged already and need not be.
MOST: Final = 64
_NO_COHORT: Final = CohortCounts(0, 0, 0, (0.0,) * len(SYM64), (0.0,) * len(SYM64))
_OUTCOMES: Final = (
    *("requests", "joined", "late", "duplicate", "conflicting", "refused", "unknown", "waiting", "delay"),
    *("forwarded", "forgotten"),
)
_LOSSES: Final = ("rows", "both_right", "primary_right", "shadow_right", "both_wrong", "primary_loss", "shadow_loss")


def merge(one: LabelTally, other: LabelTally) -> LabelTally:
    """Adds two tallies; of losses that cannot be compared the newer ones stand."""
    if NONE in (one, other):
        return other if one == NONE else one
    sums = {name: getattr(one, name) + getattr(other, name) for name in _OUTCOMES}
    if not one.basis or not other.basis:
        return msgspec.structs.replace(one if one.basis else other, **sums)
    if one.basis != other.basis:
        return msgspec.structs.replace(other if _newest(other) >= _newest(one) else one, **sums)
    sums |= {name: getattr(one, name) + getattr(other, name) for name in _LOSSES}
    return msgspec.structs.replace(one, **sums, cohorts=_together((*one.cohorts, *other.cohorts)))


def closed(tally: LabelTally) -> LabelTally:
    """Returns the tally after the worker is gone: labels that wait for their requests never meet them."""
    if not tally.waiting:
        return tally
    return msgspec.structs.replace(tally, unknown=tally.unknown + tally.waiting, waiting=0)


class Due(NamedTuple):
    """The requests of which no label is waited for any more."""

    requests: int
    labelled: int
    counts: MetricCounts


def due(tally: LabelTally, policy: Policy, now: datetime) -> Due:
    """Returns what may be judged at a moment: whole cohorts, in the order of their requests, never of their labels.

    Labels that are judged as they come make a shadow look as those do that are known at once.
    """
    until_ns = (now.timestamp() - policy.labels - SETTLING) * 1e9
    cohorts = [cohort for cohort in tally.cohorts if cohort.until_ns <= until_ns]
    found = reduce(CohortCounts.plus, cohorts, _NO_COHORT)
    return Due(found.requests, found.labelled, MetricCounts(LOSS, found.up, found.lo))


def judged(evidence: Evidence, tally: LabelTally, policy: Policy, now: datetime) -> Evidence:
    """Returns the evidence by which a policy judges: where it asks for labels, with the loss."""
    if not policy.labels:
        return evidence
    observed = evidence.observed
    ripe = due(tally, policy, now)
    changes = {"basis": f"{observed.basis}+{tally.basis}", "metrics": (*observed.metrics, ripe.counts)}
    return replace(evidence, observed=msgspec.structs.replace(observed, requests=ripe.requests, repeated=0, **changes))


def report(tally: LabelTally, evidence: Evidence, policy: Policy, now: datetime) -> control_pb2.Labels | None:
    """Returns what to say of a tally, with the evidence that was made from it; None where no label was received."""
    if not tally.received and not policy.labels:
        return None
    rows, unit = max(1, tally.rows), tally.scale**2 if tally.loss == "squared" else tally.scale
    message = control_pb2.Labels(
        output=tally.output,
        loss=tally.loss,
        joined=tally.joined,
        late=tally.late,
        duplicate=tally.duplicate,
        conflicting=tally.conflicting,
        refused=tally.refused,
        unknown=tally.unknown,
        waiting=tally.waiting,
        forgotten=tally.forgotten,
        rows=tally.rows,
        both_right=tally.both_right,
        primary_right=tally.primary_right,
        shadow_right=tally.shadow_right,
        both_wrong=tally.both_wrong,
        greatest=unit,
        primary_loss=unit * tally.primary_loss / rows,
        shadow_loss=unit * tally.shadow_loss / rows,
        mean_delay=tally.delay / max(1, tally.joined),
    )
    if policy.labels:
        ripe = due(tally, policy, now)
        message.horizon, message.due, message.labelled = policy.labels, ripe.requests, ripe.labelled
        message.difference.CopyFrom(_difference(evidence, policy))
    return message


def _difference(evidence: Evidence, policy: Policy) -> control_pb2.Interval:
    """Returns how much more the shadow loses than the primary, as a share of the greatest loss."""
    asked = claims(evidence, policy)
    loss = next(claim for claim in asked if claim.metric == LOSS)
    found = find(loss, policy.alpha_promote, policy.alpha_reject / len(asked))
    blocks = f"{sum(found.worst):,.0f} blocks of {policy.block} requests" if policy.block > 1 else "requests"
    method = f"at all times at once, by {blocks} that are older than {policy.labels:g} s"
    return control_pb2.Interval(estimate=found.estimate, low=found.low, high=found.high, method=method)


def _newest(tally: LabelTally) -> int:
    return max((cohort.until_ns for cohort in tally.cohorts), default=0)


def _together(cohorts: Iterable[CohortCounts]) -> tuple[CohortCounts, ...]:
    """Returns one cohort for each span of time, oldest first; of many, the oldest are made one."""
    sums: dict[int, CohortCounts] = {}
    for cohort in cohorts:
        known = sums.get(cohort.until_ns)
        sums[cohort.until_ns] = known.plus(cohort) if known else cohort
    found = [sums[until] for until in sorted(sums)]
    while len(found) > MOST:
        found[:2] = [found[0].plus(found[1])]
    return tuple(found)
