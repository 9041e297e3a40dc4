"""The verdict on a shadow: a pure function of the evidence and the policy, as good at any moment as at any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil, inf, isinf, log
from typing import Final, Literal

import numpy as np

from gnomon_server.control.claims import Claim, claims, disagreement
from gnomon_server.control.evidence import Evidence
from gnomon_server.settings import Policy
from gnomon_server.statistics import bounds
from gnomon_server.statistics.evidence import log_lo, log_up
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.metrics import DISAGREEMENT, EXCESS, FAILURE, LATENCY, LOSS, output_of, segment_of
from gnomon_server.wire.tallies import Observed

Decision = Literal["promote", "reject", "keep watching"]
PROMOTE: Final = "promote"
REJECT: Final = "reject"
KEEP_WATCHING: Final = "keep watching"

State = Literal["holds", "fails", "open"]
HOLDS: Final = "holds"
FAILS: Final = "fails"
OPEN: Final = "open"


@dataclass(frozen=True)
class Finding:
    """What the evidence says about one claim; low and high bound the mean at all times at once."""

    metric: str
    state: State
    limit: float
    # Without observations 0, and the bounds enclose all that is possible.
    estimate: float
    low: float
    high: float
    # Logarithms of the evidence against a mean of at least the limit, and of at most the limit.
    evidence_promote: float
    evidence_reject: float
    knots: str
    worst: tuple[float, ...]
    best: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What the evidence allows."""

    decision: Decision
    # One sentence without a full stop.
    reason: str
    # One for each claim of the policy; that on the disagreement, or else on the loss, is the first.
    findings: tuple[Finding, ...]
    # Requests that a decision is likely to need; 0 where it is reached or none can be foreseen.
    more_requests: int
    # By which policy and on which basis it was found, and when, in UTC.
    policy: str
    basis: str
    time: datetime


@dataclass(frozen=True)
class _Case:
    """All that a verdict is found from."""

    evidence: Evidence
    policy: Policy
    now: datetime
    claims: tuple[Claim, ...]
    findings: tuple[Finding, ...]

    @property
    def age(self) -> float:
        """Seconds since the first request."""
        since = self.evidence.since
        return max(0.0, (self.now - since).total_seconds()) if since else 0.0

    def of(self, state: State) -> list[Finding]:
        """Returns the findings of one state."""
        return [finding for finding in self.findings if finding.state == state]

    @property
    def requests(self) -> int:
        """Requests that are accounted for."""
        return self.evidence.observed.requests

    @property
    def decision(self) -> Decision:
        if self.of(FAILS):
            return REJECT
        ripe = self.requests >= self.policy.min_requests and self.age >= self.policy.min_duration
        return PROMOTE if ripe and not self.of(OPEN) else KEEP_WATCHING


def verdict(evidence: Evidence, policy: Policy, now: datetime, former: Verdict | None = None) -> Verdict:
    """Returns the verdict at a moment, in UTC; a `former` decision by the same policy on the same basis stands."""
    if former is not None and (former.policy, former.basis) == (policy.digest, evidence.observed.basis):
        return former
    asked = claims(evidence, policy)
    findings = tuple(find(claim, policy.alpha_promote, policy.alpha_reject / len(asked)) for claim in asked)
    case = _Case(evidence, policy, now, asked, findings)
    decision = case.decision
    more = _more_requests(case) if decision == KEEP_WATCHING else 0
    reason = _REASONS[decision](case)
    return Verdict(decision, reason, findings, more, policy.digest, evidence.observed.basis, now)


def find(claim: Claim, alpha_promote: float, alpha_reject: float) -> Finding:
    """Returns what is known about one claim; each bound errs with its own alpha."""
    at, knots = claim.at, claim.knots
    promote, reject = log_up(knots, claim.up, at), log_lo(knots, claim.lo, at)
    state: State = HOLDS if promote >= log(1 / alpha_promote) else FAILS if reject >= log(1 / alpha_reject) else OPEN
    if claim.strata:
        return _over_strata(claim, alpha_promote, alpha_reject, (promote, reject))
    if state == HOLDS and claim.up.sum() < claim.least:
        state = OPEN
    low = claim.scaled(bounds.lower(knots, claim.lo, alpha_reject))
    high = claim.scaled(bounds.upper(knots, claim.up, alpha_promote))
    return Finding(
        metric=claim.metric,
        state=state,
        limit=claim.limit,
        # The rounding of a quotient must not move it out of its bounds.
        estimate=min(max(claim.estimate, low), high),
        low=low,
        high=high,
        evidence_promote=promote,
        evidence_reject=reject,
        knots=knots.name,
        worst=tuple(claim.up.tolist()),
        best=tuple(claim.lo.tolist()),
    )


def _over_strata(claim: Claim, alpha_promote: float, alpha_reject: float, evidence: tuple[float, float]) -> Finding:
    """Returns what is known of all the traffic where shares of different sizes were mirrored.

    Bounds of each share, weighted by its part of the traffic: one of which little is known is bounded by 0 and 1. The
    largest share has nine tenths of alpha, and the others the rest of it, 1/(i (i - 1)) of that the i-th.
    """
    low = high = mean = seen = 0.0
    for rank, stratum in enumerate(claim.strata, 1):
        part = 0.9 if rank == 1 else 0.1 / (rank * (rank - 1))
        low += stratum.part * bounds.lower(claim.knots, stratum.lo, alpha_reject * part)
        high += stratum.part * bounds.upper(claim.knots, stratum.up, alpha_promote * part)
        known = replace(claim, up=stratum.up, lo=stratum.lo, strata=())
        if known.up.sum():
            mean, seen = mean + stratum.part * known.estimate, seen + stratum.part
    state: State = HOLDS if high <= claim.limit else FAILS if low > claim.limit else OPEN
    return Finding(
        metric=claim.metric,
        state=state,
        limit=claim.limit,
        estimate=min(max(mean / seen, low), high),
        low=low,
        high=high,
        evidence_promote=evidence[0],
        evidence_reject=evidence[1],
        knots=claim.knots.name,
        worst=tuple(claim.up.tolist()),
        best=tuple(claim.lo.tolist()),
    )


def _more_requests(case: _Case) -> int:
    """Returns how many more requests decide if they turn out as those so far; 0 where they never would."""
    policy, forecasts = case.policy, [_foreseen(claim, case) for claim in case.claims]
    rejects = [observations for against, observations in forecasts if against]
    observations = min(rejects) if rejects else max(observations for _, observations in forecasts)
    if isinf(observations):
        return 0
    needed = observations * policy.block * _selected_for_one_observed(case.evidence.observed)
    return ceil(needed if rejects else max(needed, policy.min_requests - case.requests))


def _foreseen(claim: Claim, case: _Case) -> tuple[bool, float]:
    """Returns the forecast in observations of all the traffic, of which a segment has its share only."""
    if claim.metric == EXCESS:
        against, more = _forecast(claim, case.policy, len(case.claims))
        return against, more * case.requests / case.policy.block / float(claim.up.sum())
    if not segment_of(claim.metric):
        return _forecast(claim, case.policy, len(case.claims))
    held = float(claim.up.sum())
    if not held:
        return False, inf
    against, more = _forecast(claim, case.policy, len(case.claims))
    share = min(1.0, held / max(held, float(disagreement(case.evidence, case.policy).up.sum())))
    return against, more / share if against else max(more, claim.least - held) / share


def _forecast(claim: Claim, policy: Policy, number: int) -> tuple[bool, float]:
    """Returns whether a claim is on its way to fail, and the observations that it still takes to decide on it."""
    knots, at = claim.knots, claim.at
    if knots.mean(claim.lo) > at:
        return True, bounds.more(lambda c: log_lo(knots, c, at), claim.lo, policy.alpha_reject / number)
    up = claim.up
    if not up.sum():
        # As if one had been seen that is as good as can be.
        up = np.asarray(knots.array == (0.5 if knots is SYM64 else 0.0), np.float64)
    return False, bounds.more(lambda c: log_up(knots, c, at), up, policy.alpha_promote)


def _selected_for_one_observed(observed: Observed) -> float:
    """Returns how many requests it takes until one of them is new."""
    new = observed.requests - observed.repeated
    return observed.requests / new if new else 1.0


def _why_promote(case: _Case) -> str:
    holding = ", ".join(_at_most(finding) for finding in case.findings)
    return f"{case.requests:,} requests are observed and {holding}{_counting(case, 'against')}{_strayed(case)}"


def _why_reject(case: _Case) -> str:
    failing = ", ".join(_said(f, f"at least {_shown(f.low, f.limit)}") for f in case.of(FAILS))
    return f"{case.requests:,} requests are observed and {failing}{_counting(case, 'for')}{_strayed(case)}"


def _why_watching(case: _Case) -> str:
    policy, still = case.policy, case.of(OPEN)
    if not case.evidence.observed.metrics or not sum(case.findings[0].worst):
        if case.findings[0].metric == LOSS:
            return f"no request has waited for its label for {_time(policy.labels)}{_waiting(case)}"
        need = f"no block of {policy.block} requests is complete" if policy.block > 1 else "no request is observed"
        return need + _waiting(case)
    if still:
        finding = still[0]
        if segment_of(finding.metric):
            return _segment_watched(case, finding) + _waiting(case)
        low, high = (_shown(bound, finding.limit) for bound in (finding.low, finding.high))
        others = [repr(segment_of(other.metric)) for other in still if segment_of(other.metric)]
        open_too = f"; still open in segment {', '.join(others)}" if others else ""
        return _said(finding, f"between {low} and {high}") + open_too + _waiting(case) + _strayed(case)
    if case.requests < policy.min_requests:
        need = f"{case.requests:,} of {policy.min_requests:,} requests are observed"
    else:
        need = f"{_time(case.age)} of the {_time(policy.min_duration)} that the policy asks for have passed"
    return f"{need}, and so far {_at_most(case.findings[0])}"


def _segment_watched(case: _Case, finding: Finding) -> str:
    """Returns what an open segment lacks."""
    name = segment_of(finding.metric)
    requests, least = sum(finding.worst) * case.evidence.observed.block, case.policy.segments[name].min_requests
    if not requests:
        block = case.evidence.observed.block
        return (
            f"segment {name!r} lacks traffic: no {f'block of {block} requests' if block > 1 else 'request'} is observed"
        )
    if requests < least:
        return f"segment {name!r} lacks traffic: {requests:,.0f} of {least:,} requests are observed"
    low, high = (_shown(bound, finding.limit) for bound in (finding.low, finding.high))
    return f"{_said(finding, f'between {low} and {high}')}, by {requests:,.0f} requests"


_REASONS: Final[Mapping[Decision, Callable[[_Case], str]]] = {
    PROMOTE: _why_promote,
    REJECT: _why_reject,
    KEEP_WATCHING: _why_watching,
}


def _strayed(case: _Case) -> str:
    """Returns that the mirrored requests disagree otherwise than all the traffic, where that is so."""
    claim = case.claims[0]
    if not claim.strata:
        return ""
    plain, found = replace(claim, strata=()).estimate, case.findings[0]
    if abs(plain - found.estimate) < found.limit / 10:
        return ""
    return f"; the mirrored share changed, and of the mirrored requests alone {_shown(plain, found.limit)} disagree"


def _at_most(finding: Finding) -> str:
    return _said(finding, f"at most {_shown(finding.high, finding.limit)}")


def _said(finding: Finding, amount: str) -> str:
    sentences = {
        DISAGREEMENT: "{} of rows disagree",
        EXCESS: "the primary is not deterministic, and beyond what it disagrees with itself {} of rows disagree",
        FAILURE: "the shadow fails on {} more of the requests than the primary",
        LOSS: "the shadow is wrong on {} more of the rows than the primary",
        LATENCY: "the shadow is too slow on {} more of the requests than the primary",
    }
    if segment := segment_of(finding.metric):
        sentence = f"{amount} of rows in segment {segment!r} disagree"
    elif output := output_of(finding.metric):
        sentence = f"the mean divergence of {output!r} is {amount}"
    else:
        sentence = sentences[finding.metric].format(amount)
    return f"{sentence}, where the policy allows {100 * finding.limit:g} %"


def _counting(case: _Case, side: str) -> str:
    return f", missing requests counted {side} the shadow" if _missing(case) else ""


def _waiting(case: _Case) -> str:
    missing = _missing(case)
    if not missing:
        return ""
    return f"; {100 * missing:.2g} % of what was to be observed is missing and counts at its worst"


def _missing(case: _Case) -> float:
    """Returns the share of the observations of which only the bounds are known."""
    worst, best = case.claims[0].up, case.claims[0].lo
    knots = case.claims[0].knots
    return max(0.0, knots.mean(worst) - knots.mean(best)) if worst.sum() else 0.0


def _shown(share: float, limit: float) -> str:
    """Returns a share with as many digits as show on which side of the limit it lies."""
    digits = next((d for d in range(1, 6) if (round(share, d + 2) > limit) == (share > limit)), 6)
    return f"{100 * share:.{digits}f} %"


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
