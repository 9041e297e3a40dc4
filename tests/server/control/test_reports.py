from __future__ import annotations

import json
from datetime import UTC, datetime
from math import inf

import numpy as np
import pytest

from gnomon_protos import control_pb2 as pb
from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.reports import from_json, report, to_json
from gnomon_server.control.routes import Route
from gnomon_server.control.verdict import verdict
from gnomon_server.settings import Policy
from gnomon_server.statistics.knots import GEO32
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, empty
from gnomon_server.wire.messages import VersionState
from gnomon_server.wire.tallies import MetricCounts, Observed, OutputTally

ROUTE = Route("churn", 3, primary=1, shadows={2: 0.5})
STATES = (
    VersionState("churn", 1, "ready", digest="sha256:one"),
    VersionState("churn", 2, "ready", digest="sha256:two"),
)
NOW = datetime(2026, 1, 2, 4, tzinfo=UTC)


def reported(comparison: Comparison, policy: Policy, states: tuple[VersionState, VersionState] = STATES) -> pb.Report:
    return report(comparison, ROUTE, policy, verdict(comparison.evidence, policy, NOW), states)


ONES = GEO32.counts(np.array([0.0, 1.0]))
ZEROS = GEO32.counts(np.zeros(100))
COMPARISON = Comparison(
    Pair("churn", 1, 2),
    since=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    outcomes=Outcomes(compared=100, shadow_error=1, primary_error=2, timeout=3, dropped=4, not_comparable=5, pending=6),
    agreement_sum=99.0,
    disagreeing=2,
    outputs=(OutputTally("p", "probabilities", 0.01, 200, 2, 1.0, 0.25, empty(DIVERGENCE_BOUNDS)),),
    evidence=Evidence(
        Observed(
            "basis",
            requests=110,
            repeated=9,
            rows=110,
            repeated_rows=11,
            metrics=(MetricCounts("disagreement", tuple(ZEROS + ONES), tuple(ZEROS + ONES)),),
        ),
        lost=3,
        since=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    ),
)
POLICY = Policy(tolerance=0.2, block=1, min_requests=100, min_duration=0)


def test_a_report_shows_all_that_is_known() -> None:
    found = reported(COMPARISON, POLICY)
    assert (found.model, found.primary, found.shadow, found.sample) == ("churn", 1, 2, 0.5)
    assert found.since == "2026-01-02T03:04:05Z"
    assert found.outcomes.selected == 121 == sum(vars(COMPARISON.outcomes).values())
    assert found.agreement.estimate == pytest.approx(101 / 102)
    assert found.agreement.low < 101 / 105 < 104 / 105 < found.agreement.high
    assert found.agreement.method == "95 % a side at all times at once, by requests, missing ones at worst case"
    assert (found.verdict.decision, found.verdict.decided) == ("promote", "2026-01-02T04:00:00Z")
    assert found.verdict.policy_digest == POLICY.digest
    (finding,) = found.verdict.findings
    assert (finding.metric, finding.state, finding.limit, finding.knots) == ("disagreement", "holds", 0.2, "GEO32")
    assert (sum(finding.worst), finding.worst[-1], finding.best[-1]) == (105, 4, 1)
    assert (found.primary_digest, found.shadow_digest) == ("sha256:one", "sha256:two")
    observations = found.observations
    assert (observations.count, observations.requests, observations.repeated) == (105, 110, 9)
    assert (observations.repeated_share, observations.lost, observations.advice) == (0.1, 3, "")
    assert (found.shadow_state, found.shadow_reason) == ("ready", "")
    assert (found.outputs[0].mean_divergence, found.outputs[0].max_divergence) == (0.005, 0.25)


def test_an_empty_comparison_has_a_report_too() -> None:
    state = VersionState("churn", 9, "failed", "no such operator")
    found = reported(Comparison(Pair("churn", 1, 9)), Policy(), (STATES[0], state))
    assert (found.verdict.decision, found.verdict.decided) == ("keep watching", "")
    assert (found.agreement.low, found.agreement.high) == (0, 1)
    assert (found.since, found.sample, found.outcomes.selected) == ("", 0.0, 0)
    assert (found.primary_latency.count, found.primary_latency.mean, found.primary_latency.p99) == (0, 0.0, 0.0)
    assert (found.shadow_state, found.shadow_reason) == ("failed", "no such operator")


def test_evidence_is_read_back_as_it_was_written() -> None:
    found = reported(COMPARISON, Policy())
    found.shadow_latency.p99 = inf
    text = to_json(found)
    assert from_json(text) == found
    assert json.loads(text)["outcomes"]["shadow_error"] == "1"
    assert "\n" not in text


def test_evidence_of_a_newer_gnomon_can_be_read() -> None:
    assert from_json('{"model": "churn", "drift": {"score": 1}}').model == "churn"


def test_evidence_says_what_was_zero() -> None:
    text = to_json(reported(Comparison(Pair("churn", 1, 2)), Policy()))
    assert json.loads(text)["outcomes"]["dropped"] == "0"
