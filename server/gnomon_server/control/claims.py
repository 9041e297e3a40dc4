"""Claims: what a policy asks of a shadow, each with the counts that speak to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import frexp, sqrt

import numpy as np

from gnomon_server.control.evidence import Evidence
from gnomon_server.settings import Policy
from gnomon_server.statistics.knots import GEO32, SYM64, Floats, Knots, signed
from gnomon_server.wire.metrics import DISAGREEMENT, EXCESS, FAILURE, LATENCY, LOSS, of_output, of_segment
from gnomon_server.wire.tallies import MetricCounts, Serial, ShareCounts


@dataclass(frozen=True)
class Stratum:
    """Counts of requests that were selected from one share."""

    # Its part of the traffic: each request stands for 1 / share of them (Horvitz and Thompson, 1952).
    part: float
    up: Floats
    lo: Floats


@dataclass(frozen=True)
class Claim:
    """That the mean of a metric is at most `limit`."""

    metric: str
    limit: float
    # GEO32 for means in [0, 1]; SYM64 for differences e in [-1, 1], counted as (e + 1)/2.
    knots: Knots
    # With whatever is missing at its worst for the shadow, and at its best.
    up: Floats
    lo: Floats
    # Observations without which it does not hold.
    least: float = 0.0
    # Where the share was thinned: what each of the shares says, the largest share first.
    strata: tuple[Stratum, ...] = ()

    def scaled(self, x: float) -> float:
        """Returns a mean over the knots as one of the metric."""
        return 2 * x - 1 if self.knots is SYM64 else x

    @property
    def at(self) -> float:
        """The limit as a mean over the knots."""
        return (1 + self.limit) / 2 if self.knots is SYM64 else self.limit

    @property
    def estimate(self) -> float:
        """The mean of what is known; halfway between worst and best where that is not to be told apart. 0 without."""
        up, lo = self.knots.mean(self.up), self.knots.mean(self.lo)
        if not self.up.sum():
            return 0.0
        if self.knots is SYM64:
            return self.scaled((up + lo) / 2)
        known = 1 - (up - lo)
        return lo / known if known > 0 else lo


def claims(evidence: Evidence, policy: Policy) -> tuple[Claim, ...]:
    """Returns all that a policy asks for."""
    return tuple(_claims(evidence, policy))


def disagreement(evidence: Evidence, policy: Policy) -> Claim:
    """Returns the claim that the versions agree, which a policy asks for where the truth is not known."""
    counts = next((counts for counts in evidence.observed.metrics if counts.name == DISAGREEMENT), None)
    sides = _with_lost(GEO32, counts, evidence.lost / evidence.observed.block)
    return Claim(DISAGREEMENT, policy.tolerance, GEO32, *sides, strata=_strata(evidence.observed.shares, sides[0]))


def _strata(shares: Sequence[ShareCounts], up: Floats) -> tuple[Stratum, ...]:
    """Returns what each share says where one was thinned, and at last what belongs to none: requests that were lost.

    The guard halves. Shares that are no halves of each other were set by somebody, whatever the traffic was, and stand
    for no more than what was selected from them.
    """
    known = [share for share in shares if sum(share.up)]
    families = [frexp(share.sample)[0] for share in known]
    if len(set(families)) == len(families):
        return ()
    sizes = np.array([sum(share.up) for share in known])
    stands = sizes / np.array([share.sample for share in known])
    for family in set(families):
        mine = np.array([other == family for other in families])
        stands[mine] *= sizes[mine].sum() / stands[mine].sum()
    parts = [*stands, max(0.0, float(up.sum() - sizes.sum()))]
    counts = [*((np.array(share.up), np.array(share.lo)) for share in known), (GEO32.none(), GEO32.none())]
    return tuple(Stratum(part / sum(parts), *sides) for part, sides in zip(parts, counts, strict=True))


def _claims(evidence: Evidence, policy: Policy) -> Iterator[Claim]:
    counts = {counts.name: counts for counts in evidence.observed.metrics}
    # Requests outside of all blocks count as parts of a block in which all are alike.
    lost, errors = (number / evidence.observed.block for number in (evidence.lost, evidence.primary_errors))
    if LOSS in counts:
        # Who is right more often disagrees.
        yield Claim(LOSS, policy.loss, SYM64, *_with_lost(SYM64, counts[LOSS], lost))
    else:
        if EXCESS in counts:
            excess = counts[EXCESS]
            yield Claim(EXCESS, policy.tolerance, SYM64, np.array(excess.up), np.array(excess.lo))
        else:
            yield disagreement(evidence, policy)
        for name, limit in policy.outputs.items():
            yield Claim(of_output(name), limit, GEO32, *_with_lost(GEO32, counts.get(of_output(name)), lost))
    for name, segment in policy.segments.items():
        # Of a request that nobody can account for nobody knows whether it lies there.
        sides = _with_lost(GEO32, counts.get(of_segment(segment.where)), lost)
        least = segment.min_requests / evidence.observed.block
        yield Claim(of_segment(name), segment.tolerance, GEO32, *sides, least)
    # Only what the shadow answers is run again.
    if errors_limit := policy.errors or (policy.tolerance if EXCESS in counts else 0.0):
        up, lo = map(signed, _with_lost(GEO32, counts.get(FAILURE), lost))
        # Where the primary failed the shadow was not asked: it may have failed as well, or not.
        up[len(SYM64) // 2] += errors
        lo[0] += errors
        yield Claim(FAILURE, errors_limit, SYM64, up, lo)
    if policy.latency:
        yield Claim(LATENCY, policy.latency_excess, SYM64, *_with_lost(SYM64, counts.get(LATENCY), lost))


def _with_lost(knots: Knots, counts: MetricCounts | None, lost: float) -> tuple[Floats, Floats]:
    up, lo = (np.array(counts.up), np.array(counts.lo)) if counts else (knots.none(), knots.none())
    up[-1] += lost
    lo[0] += lost
    return up, lo


def correlation(serial: Serial) -> float:
    """Returns the correlation of neighbouring observations; 0 where there is none or too little to tell."""
    if serial.pairs < 2:
        return 0.0
    mean = serial.total / serial.blocks
    variance = serial.squares / serial.blocks - mean * mean
    # Of n values that never change, rounding leaves this much.
    if variance <= 1e-12:
        return 0.0
    covariance = serial.products / serial.pairs - mean * mean
    return max(-1.0, min(1.0, covariance / variance))


def design_effect(serial: Serial, block: int) -> float:
    """Returns how many times the variance of observations exceeds that of independent requests; 0: not known."""
    if serial.blocks < 2:
        return 0.0
    mean = serial.total / serial.blocks
    independent = mean * (1 - mean) / block
    variance = max(0.0, serial.squares / serial.blocks - mean * mean) * serial.blocks / (serial.blocks - 1)
    return variance / independent if independent > 0 else 0.0


def advice(serial: Serial, block: int) -> str:
    """Returns what to do about observations that depend on their neighbours; empty if they do not notably."""
    found = correlation(serial)
    # A correlation of n independent pairs has a standard error of 1/sqrt(n).
    if serial.pairs < 10 or found <= 0.1 + 2 / sqrt(serial.pairs):
        return ""
    return f"neighbouring blocks depend on each other (correlation {found:.2f}): set block to {4 * block} or more"
