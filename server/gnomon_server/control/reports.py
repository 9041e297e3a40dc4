"""Reports: a comparison and its verdict as the messages of `gnomon.v1`, and as JSON for the audit."""

from __future__ import annotations

from dataclasses import asdict

from google.protobuf import json_format

from gnomon_protos import control_pb2
from gnomon_server.control import repetitions
from gnomon_server.control.claims import advice, claims, correlation, design_effect, disagreement
from gnomon_server.control.comparison import Comparison, Outcomes
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.guarding import Thinning
from gnomon_server.control.latencies import latency
from gnomon_server.control.repetitions import ALPHA
from gnomon_server.control.routes import Route
from gnomon_server.control.times import rfc3339
from gnomon_server.control.verdict import KEEP_WATCHING, Finding, Verdict, find
from gnomon_server.settings import Policy
from gnomon_server.wire.messages import VersionState
from gnomon_server.wire.tallies import OutputTally, RepeatTally, StratumTally


def report(
    comparison: Comparison,
    route: Route,
    policy: Policy,
    verdict: Verdict,
    states: tuple[VersionState, VersionState],
) -> control_pb2.Report:
    """Returns how a shadow compares with its primary; `states` are those of the primary's version and the shadow's."""
    pair, evidence = comparison.pair, comparison.evidence
    primary, shadow = states
    return control_pb2.Report(
        model=pair.model,
        primary=pair.primary,
        shadow=pair.shadow,
        since=rfc3339(comparison.since) if comparison.since else "",
        sample=route.shadows.get(pair.shadow, 0.0),
        outcomes=_outcomes(comparison.outcomes),
        agreement=_agreement(comparison, policy),
        outputs=[_output(tally, comparison.repeats) for tally in comparison.outputs],
        primary_latency=latency(comparison.primary_times, ALPHA),
        shadow_latency=latency(comparison.shadow_times, ALPHA),
        verdict=_verdict(verdict),
        shadow_state=shadow.state,
        shadow_reason=shadow.reason,
        observations=_observations(evidence, policy),
        primary_digest=primary.digest,
        shadow_digest=shadow.digest,
        repetition=repetitions.report(comparison.repeats, comparison.primary_times),
        strata=map(_stratum, comparison.strata),
        agreement_of_traffic=comparison.agreement_of_traffic,
    )


def thinning(found: Thinning) -> control_pb2.Thinning:
    """Returns a time in which mirroring was thinned."""
    return control_pb2.Thinning(
        since=rfc3339(found.since),
        until=rfc3339(found.until) if found.until else "",
        factor=found.factor,
        cause=found.cause,
    )


def to_json(message: control_pb2.Report) -> str:
    """Returns a report as ProtoJSON with the names of the .proto file and zeros written out, to be kept as evidence."""
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    )


def from_json(text: str) -> control_pb2.Report:
    """Returns the report that `to_json` wrote, by whichever version of gnomon; what this one does not know is left."""
    return json_format.Parse(text, control_pb2.Report(), ignore_unknown_fields=True)


def _stratum(tally: StratumTally) -> control_pb2.Stratum:
    agreement = tally.agreement_sum / tally.compared if tally.compared else 1.0
    return control_pb2.Stratum(
        sample=tally.sample, received=tally.received, compared=tally.compared, agreement=agreement
    )


def _outcomes(outcomes: Outcomes) -> control_pb2.Outcomes:
    return control_pb2.Outcomes(
        selected=outcomes.selected,
        compared=outcomes.compared,
        shadow_error=outcomes.shadow_error,
        primary_error=outcomes.primary_error,
        timeout=outcomes.timeout,
        dropped=outcomes.dropped,
        not_comparable=outcomes.not_comparable,
        pending=outcomes.pending,
    )


def _agreement(comparison: Comparison, policy: Policy) -> control_pb2.Interval:
    evidence = comparison.evidence
    alpha_reject = policy.alpha_reject / len(claims(evidence, policy))
    found = find(disagreement(evidence, policy), policy.alpha_promote, alpha_reject)
    sides = " and ".join(f"{100 * (1 - alpha):g} %" for alpha in sorted({policy.alpha_promote, policy.alpha_reject}))
    observations = f"{sum(found.worst):,.0f} blocks of {policy.block} requests" if policy.block > 1 else "requests"
    return control_pb2.Interval(
        estimate=1 - found.estimate if sum(found.worst) else _counted(comparison),
        low=1 - found.high,
        high=1 - found.low,
        method=f"{sides} a side at all times at once, by {observations}, missing ones at worst case",
    )


def _counted(comparison: Comparison) -> float:
    """Returns the share of the requests so far, of which no observation could be made yet; 0 without any."""
    known = comparison.outcomes.compared + comparison.outcomes.shadow_error
    return min(1.0, comparison.agreement_sum / known) if known else 0.0


def _observations(evidence: Evidence, policy: Policy) -> control_pb2.Observations:
    observed, serial = evidence.observed, evidence.observed.serial
    return control_pb2.Observations(
        block=policy.block,
        count=float(disagreement(evidence, policy).up.sum()),
        requests=observed.requests,
        repeated=observed.repeated,
        repeated_share=observed.repeated_rows / observed.rows if observed.rows else 0.0,
        lost=evidence.lost,
        design_effect=design_effect(serial, observed.block),
        correlation=correlation(serial),
        advice=advice(serial, observed.block),
    )


def _output(tally: OutputTally, repeats: RepeatTally) -> control_pb2.OutputReport:
    own, repeated = repetitions.divergences(repeats, tally.output)
    return control_pb2.OutputReport(
        output=tally.output,
        comparator=tally.comparator,
        tolerance=tally.tolerance,
        rows=tally.rows,
        disagreements=tally.disagreements,
        mean_divergence=tally.divergence_sum / tally.rows if tally.rows else 0.0,
        max_divergence=tally.divergence_max,
        flips=[
            control_pb2.Flip(before=flip.before, after=flip.after, rows=flip.rows, cost=flip.cost)
            for flip in sorted(tally.flips, key=lambda flip: (-flip.rows, flip.before, flip.after))
        ],
        unfit=tally.unfit,
        floor=tally.floor,
        net_divergence=tally.net_sum / tally.rows if tally.rows else 0.0,
        own_divergence=own,
        repeated_divergence=repeated,
    )


def _verdict(verdict: Verdict) -> control_pb2.Verdict:
    return control_pb2.Verdict(
        decision=verdict.decision,
        reason=verdict.reason,
        more_requests=verdict.more_requests,
        findings=map(_finding, verdict.findings),
        decided=rfc3339(verdict.time) if verdict.decision != KEEP_WATCHING else "",
        policy_digest=verdict.policy,
    )


def _finding(finding: Finding) -> control_pb2.Finding:
    return control_pb2.Finding(**asdict(finding))
