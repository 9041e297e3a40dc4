"""Verdicts: from counts and a policy to a decision, its reason and its bounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.control.claims import advice, correlation, design_effect
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.verdict import KEEP_WATCHING, PROMOTE, REJECT, Verdict, verdict
from gnomon_server.settings import Policy, SegmentSettings
from gnomon_server.statistics.knots import GEO32, SYM64
from gnomon_server.wire.tallies import MetricCounts, Observed, Serial, ShareCounts

NOW = datetime(2026, 1, 2, tzinfo=UTC)
POLICY = Policy(tolerance=0.05, block=1, min_requests=100, min_duration=60.0)
SHARES = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.5, 1.0]), max_size=40)


def observed(
    shares: Iterable[float],
    times: int = 1,
    missing: int = 0,
    failed: int = 0,
    block: int = 1,
    slow: tuple[int, int] | None = None,
) -> Observed:
    """Observations of requests that disagree on these shares of rows, of others that failed and of missing ones."""
    known = np.array([*shares] * times + [1.0] * failed)
    up, lo = (GEO32.counts(np.concatenate([known, np.full(missing, worst)])) for worst in (1.0, 0.0))
    halves = [GEO32.counts(np.concatenate([known / 2, np.full(missing, worst)])) for worst in (1.0, 0.0)]
    no_answer = np.concatenate([np.zeros(len(known) - failed), np.ones(failed)])
    failures = [GEO32.counts(np.concatenate([no_answer, np.full(missing, worst)])) for worst in (1.0, 0.0)]
    metrics = [counts("disagreement", up, lo), counts("failure", *failures), counts("output score", *halves)]
    if slow is not None:
        slower, faster = slow
        rest = np.full(len(known) - slower - faster, 0.5)
        lag = SYM64.counts(np.concatenate([rest, np.ones(slower), np.zeros(faster)]))
        metrics.append(counts("latency", lag, lag))
    return Observed("basis", block, requests=(len(known) + missing) * block, metrics=tuple(metrics))


def counts(name: str, up: np.ndarray, lo: np.ndarray) -> MetricCounts:
    return MetricCounts(name, tuple(up.tolist()), tuple(lo.tolist()))


def judged(found: Observed, policy: Policy = POLICY, age: float = 100.0, **outside: int) -> Verdict:
    since = NOW - timedelta(seconds=age)
    return verdict(Evidence(found, since=since, **outside), policy, NOW)


def test_without_data_everything_is_possible_and_the_least_number_is_foretold() -> None:
    found = verdict(Evidence(), POLICY, NOW)
    assert found.decision == KEEP_WATCHING
    assert found.reason == "no request is observed"
    (finding,) = found.findings
    assert (finding.state, finding.estimate, finding.low, finding.high) == ("open", 0.0, 0.0, 1.0)
    assert found.more_requests == 100
    # Nothing sooner excludes that 1 % of blocks are wholly wrong.
    usual = verdict(Evidence(), Policy(), NOW)
    assert usual.reason == "no block of 50 requests is complete"
    assert usual.more_requests == pytest.approx(400 * 50, rel=0.05)


@pytest.mark.parametrize(
    ("found", "decision", "reason"),
    [
        (observed([0], 1000), PROMOTE, "1,000 requests are observed and at most 0.4 % of rows disagree, where the po"),
        (observed([0] * 19 + [1], 4), KEEP_WATCHING, "between 0.7 % and 14.9 % of rows disagree, where the policy al"),
        (observed([0, 1], 50), REJECT, "100 requests are observed and at least 35.1 % of rows disagree, where the pol"),
        # A shadow that only fails is rejected.
        (observed([], failed=100), REJECT, "100 requests are observed and at least 94.2 % of rows disagree"),
        # Rejected early, promoted only after the least number.
        (observed([1], 20), REJECT, "20 requests are observed and at least"),
        (observed([0], 99), KEEP_WATCHING, "99 of 100 requests are observed, and so far at most 4.0 % of rows dis"),
        # What is missing may agree or not.
        (observed([0], 1000, missing=10), PROMOTE, "missing requests counted against the shadow"),
        (observed([0], 1000, missing=100), KEEP_WATCHING, "; 9.1 % of what was to be observed is missing"),
        (observed([1], 100, missing=100), REJECT, "missing requests counted for the shadow"),
    ],
)
def test_a_verdict_follows_from_counts_and_policy(found: Observed, decision: str, reason: str) -> None:
    result = judged(found)
    assert result.decision == decision, result.reason
    assert reason in result.reason


def test_a_promotion_waits_for_a_cycle_of_the_traffic_and_a_rejection_does_not() -> None:
    policy = Policy(tolerance=0.05, block=1, min_requests=100)
    early = judged(observed([0], 1000), policy, age=3 * 3600)
    assert early.decision == KEEP_WATCHING
    assert early.reason.startswith("3 h of the 1 d that the policy asks for have passed, and so far at most 0.4 %")
    assert judged(observed([0], 1000), policy, age=24 * 3600).decision == PROMOTE
    assert judged(observed([1], 1000), policy, age=1).decision == REJECT


def test_all_that_the_policy_asks_for_must_hold_and_one_that_fails_is_enough() -> None:
    found = observed([0] * 99 + [1], 30)
    # Its mean divergence is half of the disagreement.
    lenient = judged(found, replace_policy(outputs={"score": 0.02}))
    assert (lenient.decision, [f.state for f in lenient.findings]) == (PROMOTE, ["holds", "holds"])
    assert "the mean divergence of 'score' is at most 0.8 %, where the policy allows 2 %" in lenient.reason
    strict = judged(found, replace_policy(outputs={"score": 0.001}))
    assert (strict.decision, [f.state for f in strict.findings]) == (REJECT, ["holds", "fails"])
    unknown = judged(found, replace_policy(outputs={"other": 0.02}))
    assert (unknown.decision, unknown.findings[1].state) == (KEEP_WATCHING, "open")
    assert "the mean divergence of 'other' is between 0.0 % and 100.0 %" in unknown.reason


def replace_policy(**changes: object) -> Policy:
    return Policy(**{**{name: getattr(POLICY, name) for name in POLICY.__struct_fields__}, **changes})


def test_errors_are_compared_with_those_of_the_primary() -> None:
    policy = replace_policy(errors=0.01)
    none = judged(observed([0], 2000), policy)
    assert (none.decision, none.findings[1].estimate) == (PROMOTE, 0.0)
    some = judged(observed([0], 1900, failed=60), policy)
    assert (some.decision, some.findings[0].state, some.findings[1].state) == (REJECT, "holds", "fails")
    assert "the shadow fails on at least 2.1 % more of the requests than the primary" in some.reason
    # The primary's own errors say nothing of the shadow, that was not asked, and count at their worst on both sides.
    both = judged(observed([0], 1900, failed=60), policy, primary_errors=60)
    assert both.findings[1].state == "open"
    assert judged(observed([0], 2000), policy, primary_errors=200).decision == PROMOTE


def test_latency_is_the_excess_of_slow_runs_over_the_primarys() -> None:
    policy = replace_policy(latency=0.05)
    equal = judged(observed([0], 20_000, slow=(20, 20)), policy)
    assert (equal.decision, equal.findings[1].state) == (PROMOTE, "holds")
    slower = judged(observed([0], 2000, slow=(100, 10)), policy)
    assert slower.decision == REJECT
    assert slower.findings[1].estimate == pytest.approx(0.045)
    assert "the shadow is too slow on at least 3.0 % more of the requests than the primary" in slower.reason


def test_requests_outside_of_blocks_count_by_their_share_of_a_block() -> None:
    blocks = observed([0], 500, block=50)
    policy = replace_policy(block=50)
    assert judged(blocks, policy).decision == PROMOTE
    lost = judged(blocks, policy, lost=2500)
    assert lost.decision == KEEP_WATCHING
    assert sum(lost.findings[0].worst) == sum(lost.findings[0].best) == 550
    assert lost.findings[0].worst[-1] == lost.findings[0].best[0] - 500 == 50


def test_a_decision_stands_whatever_comes_later_and_a_new_policy_decides_anew() -> None:
    first = judged(observed([0], 1000))
    assert first.decision == PROMOTE
    broken = Evidence(observed([1], 5000), since=NOW)
    assert verdict(broken, POLICY, NOW, first) == first
    assert verdict(broken, replace_policy(tolerance=0.06), NOW, first).decision == REJECT
    anew = replace(broken, observed=Observed("another basis", metrics=broken.observed.metrics))
    assert verdict(anew, POLICY, NOW, first).decision == REJECT


@given(shares=SHARES, times=st.integers(1, 100), missing=st.integers(0, 20), lost=st.integers(0, 50))
def test_bounds_enclose_the_estimate_and_states_follow_from_them(
    shares: list[float], times: int, missing: int, lost: int
) -> None:
    found = judged(observed(shares, times, missing), replace_policy(outputs={"score": 0.03}, errors=0.02), lost=lost)
    for finding in found.findings:
        assert -1 <= finding.low <= finding.estimate <= finding.high <= 1
        assert (finding.state == "holds") == (finding.high <= finding.limit)
        assert (finding.state == "fails") == (finding.low >= finding.limit)
    assert (found.decision == REJECT) == any(finding.state == "fails" for finding in found.findings)
    assert (found.decision == PROMOTE) <= all(finding.state == "holds" for finding in found.findings)
    assert (found.more_requests == 0) or found.decision == KEEP_WATCHING
    assert "\n" not in found.reason


@given(shares=SHARES, times=st.integers(1, 100), missing=st.integers(0, 40), lost=st.integers(0, 40))
def test_losing_requests_never_brings_a_decision(shares: list[float], times: int, missing: int, lost: int) -> None:
    complete = judged(observed(shares, times))
    lossy = judged(observed(shares, times, missing), lost=lost)
    if lossy.decision == REJECT or (lossy.decision == PROMOTE and len(shares) * times >= POLICY.min_requests):
        assert lossy.decision == complete.decision


@given(shares=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.02, 1.0]), min_size=1, max_size=40), times=st.integers(1, 9))
def test_as_many_more_requests_of_the_same_kind_as_foretold_decide(shares: list[float], times: int) -> None:
    found = judged(observed(shares, times))
    number = len(shares) * times
    if found.more_requests:
        rounds = -(-(number + found.more_requests) // len(shares))
        assert judged(observed(shares, rounds)).decision != KEEP_WATCHING
    elif found.decision == KEEP_WATCHING:
        assert sum(shares) / len(shares) == pytest.approx(POLICY.tolerance, rel=0.01)


def test_a_forecast_counts_the_requests_that_will_be_repetitions() -> None:
    shares = observed([0], 50)
    plain, repeated = shares, replace_struct(shares, requests=500, repeated=450)
    policy = replace_policy(min_requests=1)
    assert judged(repeated, policy).more_requests == pytest.approx(10 * judged(plain, policy).more_requests, rel=0.1)


def replace_struct(found: Observed, **changes: int) -> Observed:
    return Observed(**{**{name: getattr(found, name) for name in found.__struct_fields__}, **changes})


def serial(blocks: np.ndarray) -> Serial:
    return Serial(
        len(blocks), float(blocks.sum()), float(blocks @ blocks), len(blocks) - 1, float(blocks[1:] @ blocks[:-1])
    )


def test_blocks_that_follow_each_other_are_noticed_and_a_longer_block_is_advised() -> None:
    generator = np.random.default_rng(0)
    independent = (generator.random((2000, 50)) < 0.02).mean(axis=1)
    found = serial(independent)
    assert abs(correlation(found)) < 0.1
    assert design_effect(found, 50) == pytest.approx(1, abs=0.2)
    assert advice(found, 50) == ""
    bursts = np.repeat(generator.random(200) < 0.05, 400) & (generator.random(80_000) < 0.3)
    found = serial(bursts.reshape(-1, 50).mean(axis=1))
    assert correlation(found) > 0.5
    assert design_effect(found, 50) > 5
    assert advice(found, 50).endswith("set block to 200 or more")
    assert (correlation(Serial()), design_effect(Serial(), 50), advice(Serial(), 50)) == (0, 0, "")
    constant = serial(np.full(20, 0.1))
    assert (correlation(constant), advice(constant, 50)) == (0, "")


def in_segment(agree: int, differ: int = 0, where: str = "x > 1", missing: int = 0) -> Observed:
    """Observations of 2,000 requests that agree, of which some lie in a segment."""
    found = observed([0], 2000)
    known = np.concatenate([np.zeros(agree), np.ones(differ)])
    up, lo = (GEO32.counts(np.concatenate([known, np.full(missing, worst)])) for worst in (1.0, 0.0))
    return msgspec.structs.replace(found, metrics=(*found.metrics, counts(f"segment {where}", up, lo)))


FAR = msgspec.structs.replace(
    POLICY, segments={"far": SegmentSettings(where="x > 1", tolerance=0.05, min_requests=150)}
)


@pytest.mark.parametrize(
    ("found", "decision", "reason"),
    [
        (in_segment(200), PROMOTE, "at most 2.0 % of rows in segment 'far' disagree, where the policy allows 5 %"),
        (in_segment(160, 40), REJECT, "of rows in segment 'far' disagree, where the policy allows 5 %"),
        (in_segment(120), KEEP_WATCHING, "segment 'far' lacks traffic: 120 of 150 requests are observed"),
        (in_segment(0), KEEP_WATCHING, "segment 'far' lacks traffic: no request is observed"),
        (observed([0], 2000), KEEP_WATCHING, "segment 'far' lacks traffic: no request is observed"),
        (in_segment(190, 9), KEEP_WATCHING, "of rows in segment 'far' disagree, where the policy allows 5 %, by 199 r"),
        (in_segment(200, where="x > 2"), KEEP_WATCHING, "segment 'far' lacks traffic: no request is observed"),
    ],
)
def test_every_segment_must_hold_and_one_that_fails_rejects(found: Observed, decision: str, reason: str) -> None:
    assert judged(found).decision == PROMOTE
    decided = judged(found, FAR)
    assert (decided.decision, reason in decided.reason) == (decision, True), decided.reason


def test_a_lost_request_may_have_been_one_of_the_segment() -> None:
    assert judged(in_segment(200), FAR).decision == PROMOTE
    assert judged(in_segment(200), FAR, lost=5).decision == KEEP_WATCHING


def test_the_requests_that_a_segment_takes_are_foretold_by_its_share_of_the_traffic() -> None:
    # Thirty more in the segment, which is 6 % of the traffic.
    assert judged(in_segment(120), FAR).more_requests == pytest.approx(30 * 2000 / 120, rel=0.01)


def by_share(*parts: tuple[float, int, int]) -> Observed:
    """Observations of requests that agree and that differ, by the share that they were selected from."""
    found = [GEO32.counts(np.concatenate([np.zeros(agree), np.ones(differ)])) for _, agree, differ in parts]
    shares = [ShareCounts(p, tuple(c.tolist()), tuple(c.tolist())) for (p, _, _), c in zip(parts, found, strict=True)]
    total = np.sum(found, axis=0)
    requests = round(float(total.sum()))
    return Observed("basis", 1, requests, metrics=(counts("disagreement", total, total),), shares=tuple(shares))


def test_requests_of_a_thinned_share_stand_for_those_that_were_not_mirrored() -> None:
    # By day, when a quarter is mirrored, one in eight disagrees; of the mirrored requests alone 2.5 %.
    thinned = by_share((1.0, 4000, 0), (0.25, 875, 125))
    assert judged(msgspec.structs.replace(thinned, shares=())).decision == PROMOTE
    found = judged(thinned)
    (finding,) = found.findings
    assert finding.estimate == pytest.approx(4000 * 0.125 / 8000)
    assert finding.low < finding.estimate < finding.high
    assert found.decision == KEEP_WATCHING
    assert found.reason.endswith("; the mirrored share changed, and of the mirrored requests alone 2.5 % disagree")
    assert judged(by_share((1.0, 4000, 0), (0.25, 700, 300))).decision == REJECT
    assert judged(by_share((1.0, 4000, 0), (0.25, 1000, 0))).decision == PROMOTE


def test_a_moment_of_thinning_does_not_hold_a_promotion_up() -> None:
    assert judged(by_share((1.0, 4000, 4), (1 / 16, 3, 0))).decision == PROMOTE


def test_a_share_that_somebody_raised_is_no_thinned_one() -> None:
    raised = by_share((1.0, 4000, 0), (0.01, 99, 1))
    assert judged(raised).findings == judged(msgspec.structs.replace(raised, shares=())).findings
