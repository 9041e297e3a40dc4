"""Trials: counts what primaries and canaries answer, over the lives of this server and beside the others."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from gnomon_server.control.routes import Route
from gnomon_server.control.trial import Answered, Trial, answered
from gnomon_server.wire.counts import InferenceCount
from gnomon_server.wire.messages import FrontendReport


class Fleet(Protocol):
    """What trials need of the fleet."""

    @property
    def counts(self) -> FrontendReport:
        """What all frontends have counted since this server began."""


class Routes(Protocol):
    """What trials need of the operations."""

    @property
    def routes(self) -> Mapping[str, Route]:
        """The route of every model, by name."""


class Trials:
    """Belongs to control's event loop.

    A trial begins with each share, and not with the server: while the traffic as a whole gets worse, a share that grows
    would make the canary look worse than the primary.
    """

    def __init__(self, fleet: Fleet, operations: Routes, known: Iterable[Trial] = ()) -> None:
        """Goes on from what this server stored in an earlier life."""
        self._fleet = fleet
        self._operations = operations
        # By model: the trial when its counting began in this life, and what both had answered by then.
        self._begun = {trial.model: (trial, Answered(), Answered()) for trial in known}
        # What is stored of them.
        self._told = [trial for trial, *_ in self._begun.values()]
        # What other servers counted that share the store.
        self._elsewhere: Sequence[Trial] = ()
        # No frontend has answered yet.
        for route in self._on_trial():
            self._here(route, ())

    def of(self, route: Route) -> Trial:
        """Returns what is known of a route's trial, here and elsewhere; nothing of a route that has changed since."""
        if self._operations.routes.get(route.model) != route:
            return Trial(route.model, route.since, route.primary, route.canary)
        found = self._here(route, self._fleet.counts.inferences)
        for other in self._elsewhere:
            if other.model == route.model and other.of(route):
                found = found.plus(other)
        return found

    def news(self) -> list[Trial] | None:
        """Returns all trials of now, to be stored, or None if that was told."""
        counts, routes = self._fleet.counts.inferences, self._on_trial()
        found = [self._here(route, counts) for route in routes]
        self._begun = {route.model: self._begun[route.model] for route in routes}
        return found if found != self._told else None

    def told(self, news: Sequence[Trial]) -> None:
        """Takes that news are stored."""
        self._told = [*news]

    def counted_elsewhere(self, trials: Sequence[Trial]) -> None:
        """Takes the newest counts of other servers, in place of what they were before."""
        self._elsewhere = trials

    def _on_trial(self) -> list[Route]:
        now = time.time()
        return [route for route in self._operations.routes.values() if route.canary or route.watched > now]

    def _here(self, route: Route, counts: Sequence[InferenceCount]) -> Trial:
        """Returns the trial of a route as this server counted it; begins it if need be."""
        known = self._begun.get(route.model)
        trial = _counted(*known, counts) if known is not None else None
        if trial is not None and trial.of(route):
            return trial
        by_primary = answered(counts, route.model, route.primary, "primary")
        by_canary = answered(counts, route.model, route.canary, "canary")
        if trial is not None:
            trial = trial.followed(route)
        else:
            # The old one is done, but for what was on its way.
            before = answered(counts, route.model, route.previous, "primary")
            trial = Trial(route.model, route.since, route.primary, route.canary, past=by_primary, before=before)
        self._begun[route.model] = (trial, by_primary, by_canary)
        return trial


def _counted(trial: Trial, primary: Answered, canary: Answered, counts: Sequence[InferenceCount]) -> Trial:
    """Returns a trial with what has come to it since both had answered so much."""
    by_primary = answered(counts, trial.model, trial.primary, "primary").since(primary)
    by_canary = answered(counts, trial.model, trial.canary, "canary").since(canary)
    return replace(trial, by_primary=trial.by_primary.plus(by_primary), by_canary=trial.by_canary.plus(by_canary))
