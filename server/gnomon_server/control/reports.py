"""Reports: a comparison and its verdict as the messages of `gnomon.v1`, and as JSON for the audit."""

from __future__ import annotations

from google.protobuf import json_format

from gnomon_protos import control_pb2
from gnomon_server.config import Policy
from gnomon_server.control.comparison import Comparison, Outcomes
from gnomon_server.control.routes import Route
from gnomon_server.control.verdict import Interval, Verdict, decide
from gnomon_server.wire.histogram import DURATION_BOUNDS, quantile
from gnomon_server.wire.messages import HistogramCounts, OutputTally, VersionState


def report(comparison: Comparison, route: Route, policy: Policy, shadow: VersionState) -> control_pb2.Report:
    """Returns how a shadow compares with its primary; `shadow` is the state of its version."""
    verdict = decide(comparison.outcomes, comparison.agreement_sum, policy)
    pair = comparison.pair
    return control_pb2.Report(
        model=pair.model,
        primary=pair.primary,
        shadow=pair.shadow,
        since=comparison.since.isoformat(timespec="seconds").replace("+00:00", "Z") if comparison.since else "",
        sample=route.shadows.get(pair.shadow, 0.0),
        outcomes=_outcomes(comparison.outcomes),
        agreement=_agreement(verdict.interval),
        outputs=map(_output, comparison.outputs),
        primary_latency=latency(comparison.primary_runs),
        shadow_latency=latency(comparison.shadow_runs),
        verdict=_verdict(verdict),
        shadow_state=shadow.state,
        shadow_reason=shadow.reason,
    )


def latency(runs: HistogramCounts) -> control_pb2.Latency:
    """Returns the latencies, in seconds, of a histogram over DURATION_BOUNDS; zeros without data."""
    count = sum(runs.counts)
    return control_pb2.Latency(
        count=count,
        mean=runs.total / count if count else 0.0,
        p50=quantile(runs, DURATION_BOUNDS, 0.5),
        p99=quantile(runs, DURATION_BOUNDS, 0.99),
    )


def to_json(message: control_pb2.Report) -> str:
    """Returns a report as ProtoJSON with the names of the .proto file and zeros written out, to be kept as evidence."""
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    )


def from_json(text: str) -> control_pb2.Report:
    """Returns the report that `to_json` wrote, by whichever version of gnomon; what this one does not know is left."""
    return json_format.Parse(text, control_pb2.Report(), ignore_unknown_fields=True)


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


def _agreement(interval: Interval) -> control_pb2.Interval:
    return control_pb2.Interval(
        estimate=interval.estimate, low=interval.low, high=interval.high, method=interval.method
    )


def _output(tally: OutputTally) -> control_pb2.OutputReport:
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
    )


def _verdict(verdict: Verdict) -> control_pb2.Verdict:
    return control_pb2.Verdict(decision=verdict.decision, reason=verdict.reason, more_requests=verdict.more_requests)
