"""Evidence: the observations on which a verdict rests, as a value that adds up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from gnomon_server.wire.metrics import added
from gnomon_server.wire.tallies import MetricCounts, Observed, ShareCounts


@dataclass(frozen=True)
class Evidence:
    """All observations on one basis, or a part of them; parts add up."""

    observed: Observed = Observed()  # noqa: RUF009 - it is frozen
    # Selected requests that the primary answered and that no worker can account for: of those nobody knows anything.
    lost: int = 0
    # Selected requests that are neither lost nor accounted for yet.
    open: int = 0
    primary_errors: int = 0
    # When the first of these requests was counted, in UTC; None before.
    since: datetime | None = None

    def plus(self, other: Evidence) -> Evidence:
        """Returns the sum; of observations on different bases those that began later, since they cannot be added."""
        bases = {self.observed.basis, other.observed.basis} - {""}
        times = [time for time in (self.since, other.since) if time is not None]
        if len(bases) > 1:
            return self if self.since and other.since and self.since > other.since else other
        return Evidence(
            observed=_sum(self.observed, other.observed),
            lost=self.lost + other.lost,
            open=self.open + other.open,
            primary_errors=self.primary_errors + other.primary_errors,
            since=min(times, default=None),
        )

    def closed(self) -> Evidence:
        """Returns the evidence after the worker is gone: what it does not account for is lost."""
        return replace(self, lost=self.lost + self.open, open=0)


def _sum(one: Observed, other: Observed) -> Observed:
    if not one.basis or not other.basis:
        return one if one.basis else other
    return Observed(
        basis=one.basis,
        block=one.block,
        requests=one.requests + other.requests,
        repeated=one.repeated + other.repeated,
        rows=one.rows + other.rows,
        repeated_rows=one.repeated_rows + other.repeated_rows,
        serial=added(one.serial, other.serial),
        metrics=_metrics((*one.metrics, *other.metrics)),
        shares=_shares((*one.shares, *other.shares)),
    )


def _metrics(parts: Iterable[MetricCounts]) -> tuple[MetricCounts, ...]:
    sums: dict[str, MetricCounts] = {}
    for part in parts:
        known = sums.get(part.name)
        sums[part.name] = (
            part if known is None else MetricCounts(part.name, _added(known.up, part.up), _added(known.lo, part.lo))
        )
    return tuple(sums.values())


def _shares(parts: Iterable[ShareCounts]) -> tuple[ShareCounts, ...]:
    sums: dict[float, ShareCounts] = {}
    for part in parts:
        known = sums.get(part.sample)
        sums[part.sample] = (
            part if known is None else ShareCounts(part.sample, _added(known.up, part.up), _added(known.lo, part.lo))
        )
    return tuple(sums[sample] for sample in sorted(sums, reverse=True))


def _added(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))
