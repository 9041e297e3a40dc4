"""A trial: what the primary and the canary of a model answered since they have had their shares; pure, from counts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from gnomon_server.control.routes import Route
from gnomon_server.wire.counts import HistogramCounts, InferenceCount
from gnomon_server.wire.histogram import DURATION_BOUNDS, empty, merge

# Statuses that a client has brought about, whichever version answers.
ITS_OWN: Final = frozenset({"INVALID_ARGUMENT", "CANCELLED"})
_NONE: Final = empty(DURATION_BOUNDS)


@dataclass(frozen=True)
class Side:
    """What one version answered as one role, by the limits that it is judged by."""

    requests: int = 0
    failed: int = 0
    slow: int = 0


@dataclass(frozen=True)
class Answered:
    """What one version answered as one role, whatever the limits are."""

    failed: int = 0
    # Of all, those that failed among them.
    durations: HistogramCounts = _NONE

    def plus(self, other: Answered) -> Answered:
        """Returns both together."""
        return Answered(self.failed + other.failed, merge((self.durations, other.durations), DURATION_BOUNDS))

    def since(self, former: Answered) -> Answered:
        """Returns what was answered after an earlier count."""
        counts = (new - old for new, old in zip(self.durations.counts, former.durations.counts, strict=True))
        total = self.durations.total - former.durations.total
        return Answered(self.failed - former.failed, HistogramCounts(tuple(counts), total))

    def side(self, latency: float) -> Side:
        """Returns the counts; slow is what took longer than `latency` seconds, if any are given.

        The limit is taken at the next bound of the histograms.
        """
        counts, first = self.durations.counts, bisect_left(DURATION_BOUNDS, latency) + 1
        return Side(sum(counts), self.failed, sum(counts[first:]) if latency else 0)


NOTHING: Final = Answered()


def answered(counts: Iterable[InferenceCount], model: str, version: int, role: str) -> Answered:
    """Returns what a version answered as a role, without what clients brought about."""
    found = NOTHING
    for count in counts:
        if (count.model, count.version, count.role) == (model, version, role) and count.error not in ITS_OWN:
            failed = sum(count.durations.counts) if count.error else 0
            found = found.plus(Answered(failed, count.durations))
    return found


@dataclass(frozen=True)
class Trial:
    """What one server counted in all its lives, or several servers together."""

    model: str
    # As of the route.
    since: int
    primary: int
    canary: int
    # What these answered since then.
    by_primary: Answered = NOTHING
    by_canary: Answered = NOTHING
    # What the primary answered as such before, as far as that is known, and what the one before it had answered.
    past: Answered = NOTHING
    before: Answered = NOTHING

    def of(self, route: Route) -> bool:
        """Whether it goes on under a route."""
        return (self.since, self.primary, self.canary) == (route.since, route.primary, route.canary)

    def followed(self, route: Route) -> Trial:
        """Returns the trial that begins when a route gives other shares."""
        answered = self.past.plus(self.by_primary)
        begun = Trial(route.model, route.since, route.primary, route.canary)
        if self.primary == route.primary:
            return replace(begun, past=answered, before=self.before)
        return replace(begun, before=answered if self.primary == route.previous else NOTHING)

    def plus(self, other: Trial) -> Trial:
        """Returns what both counted of the same shares."""
        return replace(
            self,
            by_primary=self.by_primary.plus(other.by_primary),
            by_canary=self.by_canary.plus(other.by_canary),
            past=self.past.plus(other.past),
            before=self.before.plus(other.before),
        )
