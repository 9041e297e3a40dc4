"""The verdict on a shadow: a pure function of the counts and the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist
from typing import Final, Literal

from gnomon_server.config import Policy
from gnomon_server.control.comparison import Outcomes

Decision = Literal["promote", "reject", "keep watching"]
PROMOTE: Final = "promote"
REJECT: Final = "reject"
KEEP_WATCHING: Final = "keep watching"


@dataclass(frozen=True)
class Interval:
    """The share of rows on which a shadow agrees with its primary: all in [0, 1], low <= estimate <= high."""

    # Of the requests whose agreement is known; 0 where there is none.
    estimate: float
    low: float
    high: float
    # How low and high were found, for a reader.
    method: str


@dataclass(frozen=True)
class Verdict:
    """What the evidence allows."""

    decision: Decision
    # One sentence without a full stop.
    reason: str
    interval: Interval
    # Requests that a decision is likely to need; 0 where it is reached or none can be foreseen.
    more_requests: int


@dataclass(frozen=True)
class _Evidence:
    """The counts as the verdict reads them."""

    outcomes: Outcomes
    # Sum over compared requests of the share of rows that agree: the requests that agree if no missing one does.
    worst: float

    @property
    def best(self) -> float:
        """Requests that agree if every missing one does."""
        return self.worst + self.outcomes.missing

    @property
    def known(self) -> int:
        """Requests of which it is known whether they agree; one that failed in the shadow does not."""
        return self.outcomes.compared + self.outcomes.shadow_error

    @property
    def considered(self) -> int:
        """Settled requests that the primary answered."""
        return self.known + self.outcomes.missing


def decide(outcomes: Outcomes, agreement_sum: float, policy: Policy) -> Verdict:
    """Returns the verdict on a comparison; promote and reject are never both possible.

    agreement_sum is the sum over compared requests of the share of rows that agree. A request that failed in the shadow
    disagrees; one that is missing disagrees for the lower bound and agrees for the upper one. A share between 0 and 1
    is counted as such: the variance of a variable in [0, 1] with mean p is at most p(1 - p), so the bounds err on the
    safe side.
    """
    evidence = _Evidence(outcomes, agreement_sum)
    interval = _interval(evidence, policy.confidence)
    decision = _decision(evidence, interval, policy)
    reason = _REASONS[decision](evidence, interval, policy)
    more = _more_requests(evidence, policy) if decision == KEEP_WATCHING else 0
    return Verdict(decision, reason, interval, more)


def wilson(agreeing: float, n: int, confidence: float) -> tuple[float, float]:
    """Returns the two-sided Wilson score interval of a share; (0, 1) without data.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not n:
        return 0.0, 1.0
    z, share = _quantile(confidence), min(1.0, agreeing / n)
    middle = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The exact bounds enclose the share; rounding must not say otherwise.
    return max(0.0, min(share, (middle - half) / scale)), min(1.0, max(share, (middle + half) / scale))


def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _interval(evidence: _Evidence, confidence: float) -> Interval:
    low, _ = wilson(evidence.worst, evidence.considered, confidence)
    _, high = wilson(evidence.best, evidence.considered, confidence)
    estimate = min(1.0, evidence.worst / evidence.known) if evidence.known else 0.0
    method = (
        f"Wilson score {100 * confidence:g} %, missing requests at worst case; "
        "valid for one look, not for repeated looking"
    )
    # Rounding of the three divisions may differ in the last digit.
    return Interval(estimate, min(low, estimate), max(high, estimate), method)


def _decision(evidence: _Evidence, interval: Interval, policy: Policy) -> Decision:
    if evidence.outcomes.compared >= policy.min_requests and interval.low >= policy.min_agreement:
        return PROMOTE
    # A shadow that only fails is never compared, and must not be watched for ever.
    if evidence.known >= policy.min_requests and interval.high < policy.min_agreement:
        return REJECT
    return KEEP_WATCHING


def _more_requests(evidence: _Evidence, policy: Policy) -> int:
    """Returns how many more requests decide if they turn out as those so far; 0 where they never would.

    By inversion of the Wilson score: a bound of share p passes a where n (p - a)^2 >= z^2 a (1 - a).
    """
    n, goal = evidence.considered, policy.min_agreement
    if not n:
        return policy.min_requests
    if evidence.worst / n > goal:
        share, counted = evidence.worst / n, evidence.outcomes.compared
    elif evidence.best / n < goal:
        share, counted = evidence.best / n, evidence.known
    else:
        return 0
    if not counted:
        return 0
    for_bound = _quantile(policy.confidence) ** 2 * goal * (1 - goal) / (share - goal) ** 2
    for_count = policy.min_requests * n / counted
    return max(1, ceil(max(for_bound, for_count) - n))


def _why_promote(evidence: _Evidence, interval: Interval, policy: Policy) -> str:
    low = _percent(interval.low, policy.min_agreement)
    counting = ", missing ones counted against the shadow" if evidence.outcomes.missing else ""
    return (
        f"{evidence.outcomes.compared:,} requests are compared and at least {low} agree{counting}, "
        f"where the policy asks for {_goal(policy)}"
    )


def _why_reject(evidence: _Evidence, interval: Interval, policy: Policy) -> str:
    outcomes, high = evidence.outcomes, _percent(interval.high, policy.min_agreement)
    failed = f", {outcomes.shadow_error:,} failed in the shadow" if outcomes.shadow_error else ""
    counting = ", missing ones counted for the shadow" if outcomes.missing else ""
    return (
        f"{outcomes.compared:,} requests are compared{failed}, and at most {high} agree{counting}, "
        f"where the policy asks for {_goal(policy)}"
    )


def _why_watching(evidence: _Evidence, interval: Interval, policy: Policy) -> str:
    compared, missing = evidence.outcomes.compared, evidence.outcomes.missing
    if compared < policy.min_requests:
        need = f"{compared:,} of {policy.min_requests:,} requests needed are compared"
        # More than the policy leaves room for: no number of requests brings a promotion while this goes on.
        return f"{need}, and {_lost(evidence)}" if missing > (1 - policy.min_agreement) * evidence.considered else need
    low, high = (_percent(bound, policy.min_agreement) for bound in (interval.low, interval.high))
    without_low, without_high = wilson(evidence.worst, evidence.known, policy.confidence)
    if without_low >= policy.min_agreement or without_high < policy.min_agreement:
        return f"{_lost(evidence)}, so that {low} to {high} may agree, where the policy asks for {_goal(policy)}"
    return f"the interval {low} to {high} contains the {_goal(policy)} that the policy asks for"


_REASONS: Final[Mapping[Decision, Callable[[_Evidence, Interval, Policy], str]]] = {
    PROMOTE: _why_promote,
    REJECT: _why_reject,
    KEEP_WATCHING: _why_watching,
}


def _lost(evidence: _Evidence) -> str:
    outcomes = evidence.outcomes
    kinds = {"dropped": outcomes.dropped, "timed out": outcomes.timeout, "not comparable": outcomes.not_comparable}
    parts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return f"{outcomes.missing / evidence.considered:.1%} of requests are missing ({parts})".replace("%", " %")


def _percent(share: float, goal: float) -> str:
    """Returns the share with as many digits as show on which side of the goal it lies."""
    digits = next((d for d in range(1, 6) if (round(share, d + 2) >= goal) == (share >= goal)), 6)
    return f"{100 * share:.{digits}f} %"


def _goal(policy: Policy) -> str:
    return f"{100 * policy.min_agreement:g} %"
