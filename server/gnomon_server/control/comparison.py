"""A comparison: everything that is known about a shadow beside its primary, as a value that adds up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from gnomon_server.control import labels, repetitions
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.verdict import Verdict
from gnomon_server.wire import histogram, sketch
from gnomon_server.wire.counts import HistogramCounts, SketchCounts
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, DURATION_BOUNDS
from gnomon_server.wire.labels import LabelTally
from gnomon_server.wire.tallies import FlipTally, OutputTally, RepeatTally, StratumTally

_NO_RUNS: Final = histogram.empty(DURATION_BOUNDS)


@dataclass(frozen=True, order=True)
class Pair:
    """What is compared: a shadow with the primary that answered."""

    model: str
    primary: int
    shadow: int


@dataclass(frozen=True)
class Outcomes:
    """Requests by what became of them."""

    compared: int = 0
    shadow_error: int = 0
    primary_error: int = 0
    timeout: int = 0
    dropped: int = 0
    not_comparable: int = 0
    # On the way: selected, without an outcome yet.
    pending: int = 0

    @property
    def settled(self) -> int:
        """Requests with an outcome."""
        return self.compared + self.shadow_error + self.primary_error + self.missing

    @property
    def selected(self) -> int:
        """Requests that the sampling rule chose."""
        return self.settled + self.pending

    @property
    def missing(self) -> int:
        """Requests that the primary answered and of which nobody will know whether the shadow agrees."""
        return self.timeout + self.dropped + self.not_comparable

    def plus(self, other: Outcomes) -> Outcomes:
        """Returns the sum."""
        return Outcomes(
            compared=self.compared + other.compared,
            shadow_error=self.shadow_error + other.shadow_error,
            primary_error=self.primary_error + other.primary_error,
            timeout=self.timeout + other.timeout,
            dropped=self.dropped + other.dropped,
            not_comparable=self.not_comparable + other.not_comparable,
            pending=self.pending + other.pending,
        )

    def closed(self) -> Outcomes:
        """Returns the outcomes after the worker is gone: nothing is pending, what was is dropped."""
        return replace(self, dropped=self.dropped + self.pending, pending=0)


@dataclass(frozen=True)
class Comparison:
    """All counts of one pair, or a part of them; parts of one pair add up."""

    pair: Pair
    # When the first selected request was counted, in UTC; None before.
    since: datetime | None = None
    outcomes: Outcomes = field(default_factory=Outcomes)
    # Sum over compared requests of the share of rows that agree, and how many requests disagree anywhere.
    agreement_sum: float = 0.0
    disagreeing: int = 0
    outputs: tuple[OutputTally, ...] = ()
    # Seconds of model run per request, over DURATION_BOUNDS.
    shadow_runs: HistogramCounts = _NO_RUNS
    primary_runs: HistogramCounts = _NO_RUNS
    # The same, finer.
    shadow_times: SketchCounts = sketch.EMPTY
    primary_times: SketchCounts = sketch.EMPTY
    repeats: RepeatTally = repetitions.NONE
    evidence: Evidence = field(default_factory=Evidence)
    # The first decision; later data does not take it back.
    decided: Verdict | None = None
    # By the share that was mirrored, the largest first.
    strata: tuple[StratumTally, ...] = ()
    # What became known of the requests later.
    labels: LabelTally = labels.NONE

    def plus(self, other: Comparison) -> Comparison:
        """Returns the sum of two parts."""
        times = [time for time in (self.since, other.since) if time is not None]
        return Comparison(
            pair=self.pair,
            since=min(times, default=None),
            outcomes=self.outcomes.plus(other.outcomes),
            agreement_sum=self.agreement_sum + other.agreement_sum,
            disagreeing=self.disagreeing + other.disagreeing,
            outputs=merged((*self.outputs, *other.outputs)),
            shadow_runs=histogram.merge((self.shadow_runs, other.shadow_runs), DURATION_BOUNDS),
            primary_runs=histogram.merge((self.primary_runs, other.primary_runs), DURATION_BOUNDS),
            shadow_times=sketch.merge((self.shadow_times, other.shadow_times)),
            primary_times=sketch.merge((self.primary_times, other.primary_times)),
            repeats=repetitions.merge(self.repeats, other.repeats),
            evidence=self.evidence.plus(other.evidence),
            decided=_decided(self.decided, other.decided),
            strata=_strata((*self.strata, *other.strata)),
            labels=labels.merge(self.labels, other.labels),
        )

    @property
    def agreement_of_traffic(self) -> float:
        """The agreement over all of the primary's requests: each compared one stands for 1 / share of them.

        Horvitz and Thompson, "A generalization of sampling without replacement from a finite universe", 1952, with the
        estimated number of requests as denominator. 1 where nothing was compared.
        """
        requests = sum(stratum.compared / stratum.sample for stratum in self.strata)
        agreement = sum(stratum.agreement_sum / stratum.sample for stratum in self.strata)
        return agreement / requests if requests else 1.0

    def closed(self) -> Comparison:
        """Returns the comparison after the worker is gone: nothing is pending, what was is dropped."""
        closed = labels.closed(self.labels)
        return replace(self, outcomes=self.outcomes.closed(), evidence=self.evidence.closed(), labels=closed)


def _decided(one: Verdict | None, other: Verdict | None) -> Verdict | None:
    """Returns the decision that stands: the earlier one of the same policy and basis, else the newer."""
    if one is None or other is None:
        return one or other
    earlier, later = sorted((one, other), key=lambda verdict: verdict.time)
    return earlier if (earlier.policy, earlier.basis) == (later.policy, later.basis) else later


def merged(tallies: Iterable[OutputTally]) -> tuple[OutputTally, ...]:
    """Returns one tally for each output; rows that were judged by another comparator or tolerance stay apart."""
    sums: dict[tuple[str, str, float], OutputTally] = {}
    for tally in tallies:
        key = (tally.output, tally.comparator, tally.tolerance)
        sums[key] = _sum(sums[key], tally) if key in sums else tally
    return tuple(sums.values())


def _strata(tallies: Iterable[StratumTally]) -> tuple[StratumTally, ...]:
    sums: dict[float, StratumTally] = {}
    for tally in tallies:
        known = sums.get(tally.sample, StratumTally(tally.sample, 0, 0, 0.0, 0))
        sums[tally.sample] = StratumTally(
            tally.sample,
            known.received + tally.received,
            known.compared + tally.compared,
            known.agreement_sum + tally.agreement_sum,
            known.disagreeing + tally.disagreeing,
        )
    return tuple(sums[sample] for sample in sorted(sums, reverse=True))


def _sum(one: OutputTally, other: OutputTally) -> OutputTally:
    return OutputTally(
        output=one.output,
        comparator=one.comparator,
        tolerance=one.tolerance,
        rows=one.rows + other.rows,
        disagreements=one.disagreements + other.disagreements,
        divergence_sum=one.divergence_sum + other.divergence_sum,
        divergence_max=max(one.divergence_max, other.divergence_max),
        histogram=histogram.merge((one.histogram, other.histogram), DIVERGENCE_BOUNDS),
        flips=_flips((*one.flips, *other.flips)),
        unfit=one.unfit + other.unfit,
        floor=max(one.floor, other.floor),
        net_sum=one.net_sum + other.net_sum,
    )


def _flips(tallies: Iterable[FlipTally]) -> tuple[FlipTally, ...]:
    sums: dict[tuple[str, str], FlipTally] = {}
    for tally in tallies:
        key = (tally.before, tally.after)
        known = sums.get(key, FlipTally(*key, 0, 0.0))
        sums[key] = FlipTally(*key, known.rows + tally.rows, known.cost + tally.cost)
    return tuple(sums.values())
