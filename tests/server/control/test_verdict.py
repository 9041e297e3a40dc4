from __future__ import annotations

from dataclasses import replace
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.config import Policy
from gnomon_server.control.comparison import Outcomes
from gnomon_server.control.verdict import KEEP_WATCHING, PROMOTE, REJECT, decide, wilson

POLICY = Policy(min_agreement=0.95, confidence=0.95, min_requests=1000)
COUNT = st.integers(0, 20_000)
SHARE = st.floats(0.01, 0.99)
POLICIES = st.builds(Policy, min_agreement=SHARE, confidence=SHARE, min_requests=st.integers(1, 5000))
OUTCOMES = st.builds(
    Outcomes,
    compared=COUNT,
    shadow_error=COUNT,
    primary_error=COUNT,
    timeout=COUNT,
    dropped=COUNT,
    not_comparable=COUNT,
    pending=COUNT,
)


# R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
@pytest.mark.parametrize(
    ("agreeing", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(agreeing: int, n: int, low: float, high: float) -> None:
    assert wilson(agreeing, n, 0.95) == pytest.approx((low, high), abs=5e-5)


def test_without_data_everything_is_possible() -> None:
    assert wilson(0, 0, 0.95) == (0.0, 1.0)
    verdict = decide(Outcomes(), 0.0, POLICY)
    assert (verdict.decision, verdict.more_requests) == (KEEP_WATCHING, 1000)
    assert verdict.reason == "0 of 1,000 requests needed are compared"
    assert (verdict.interval.estimate, verdict.interval.low, verdict.interval.high) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("outcomes", "agreement", "decision", "reason"),
    [
        (Outcomes(compared=999), 999, KEEP_WATCHING, "999 of 1,000 requests needed are compared"),
        (Outcomes(compared=1000), 1000, PROMOTE, "1,000 requests are compared and at least 99.6 % agree"),
        (Outcomes(compared=999), 0, KEEP_WATCHING, "999 of 1,000"),
        (Outcomes(compared=1000), 500, REJECT, "1,000 requests are compared, and at most 53.1 % agree"),
        (Outcomes(compared=1000), 950, KEEP_WATCHING, "the interval 93.5 % to 96.2 % contains the 95 %"),
        # What failed in the primary or is on the way says nothing.
        (Outcomes(compared=1000, primary_error=9000, pending=9000), 1000, PROMOTE, "1,000 requests are compared"),
        # A shadow that only fails is rejected, though nothing is ever compared.
        (Outcomes(shadow_error=1000), 0, REJECT, "0 requests are compared, 1,000 failed in the shadow"),
        (Outcomes(shadow_error=999), 0, KEEP_WATCHING, "0 of 1,000"),
        # What is missing may agree or not.
        (
            Outcomes(compared=1000, dropped=80, timeout=20),
            1000,
            KEEP_WATCHING,
            "9.1 % of requests are missing (80 dropped, 20 timed out), so that 89.1 % to 100.0 % may agree",
        ),
        (Outcomes(compared=10_000, dropped=80), 10_000, PROMOTE, "at least 99.0 % agree, missing ones counted against"),
        (Outcomes(compared=10_000, dropped=100), 5000, REJECT, "at most 51.5 % agree, missing ones counted for"),
        (
            Outcomes(compared=12, not_comparable=988),
            12,
            KEEP_WATCHING,
            "12 of 1,000 requests needed are compared, and 98.8 % of requests are missing (988 not comparable)",
        ),
        # A bound beside the goal is shown with the digits that tell them apart.
        (Outcomes(compared=31_000), 29_525, KEEP_WATCHING, "the interval 94.999 % to"),
    ],
)
def test_a_verdict_follows_from_counts_and_policy(
    outcomes: Outcomes, agreement: float, decision: str, reason: str
) -> None:
    verdict = decide(outcomes, agreement, POLICY)
    assert verdict.decision == decision, verdict.reason
    assert reason in verdict.reason


def test_the_interval_says_what_it_is_good_for() -> None:
    method = decide(Outcomes(), 0.0, Policy(confidence=0.9)).interval.method
    assert method == "Wilson score 90 %, missing requests at worst case; valid for one look, not for repeated looking"


def test_nothing_is_foreseen_where_missing_requests_could_decide_either_way() -> None:
    assert decide(Outcomes(compared=1000, dropped=1000), 1000.0, POLICY).more_requests == 0


@given(outcomes=OUTCOMES, share=st.floats(0, 1), policy=POLICIES)
def test_the_interval_encloses_the_estimate_and_a_decision(outcomes: Outcomes, share: float, policy: Policy) -> None:
    verdict = decide(outcomes, share * outcomes.compared, policy)
    interval = verdict.interval
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert (verdict.decision == PROMOTE) <= (interval.low >= policy.min_agreement)
    assert (verdict.decision == REJECT) <= (interval.high < policy.min_agreement)
    assert (verdict.more_requests == 0) or verdict.decision == KEEP_WATCHING
    assert verdict.reason
    assert "\n" not in verdict.reason


@given(outcomes=OUTCOMES, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)), policy=POLICIES)
def test_more_agreement_never_makes_a_verdict_worse(
    outcomes: Outcomes, shares: tuple[float, float], policy: Policy
) -> None:
    order = (REJECT, KEEP_WATCHING, PROMOTE)
    worse, better = (decide(outcomes, share * outcomes.compared, policy) for share in sorted(shares))
    assert order.index(worse.decision) <= order.index(better.decision)


@given(outcomes=OUTCOMES, share=st.floats(0, 1), policy=POLICIES, lost=COUNT)
def test_losing_requests_never_brings_a_decision(outcomes: Outcomes, share: float, policy: Policy, lost: int) -> None:
    agreement = share * outcomes.compared
    complete = decide(outcomes, agreement, policy)
    lossy = decide(replace(outcomes, dropped=outcomes.dropped + lost), agreement, policy)
    if lossy.decision != KEEP_WATCHING:
        assert lossy.decision == complete.decision


@given(outcomes=OUTCOMES, share=st.floats(0, 1), policy=POLICIES)
def test_as_many_more_requests_of_the_same_kind_as_foretold_decide(
    outcomes: Outcomes, share: float, policy: Policy
) -> None:
    agreement = share * outcomes.compared
    verdict = decide(outcomes, agreement, policy)
    considered = outcomes.compared + outcomes.shadow_error + outcomes.missing
    if not verdict.more_requests or not considered:
        return
    # Whole counts scale only roughly, so a little more than foretold.
    scale = 1.01 * (considered + verdict.more_requests) / considered + 10
    grown = Outcomes(**{kind: int(count * scale) for kind, count in vars(outcomes).items()})
    later = decide(grown, share * grown.compared, policy)
    if not isclose(share, policy.min_agreement, rel_tol=0.01):
        assert later.decision != KEEP_WATCHING
