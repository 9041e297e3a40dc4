"""Canaries: looks at what each canary answers, and the primary that was one, and takes back what fails."""

from __future__ import annotations

import logging
import time

from gnomon_server.control.canary import Side, failure, side
from gnomon_server.control.desired import Request
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.operations import Operations
from gnomon_server.control.routes import Route
from gnomon_server.control.store.tables import SERVER
from gnomon_server.settings import CanarySettings, Settings

log = logging.getLogger(__name__)


class Canaries:
    """Belongs to control's event loop; `look` is called once a second or so.

    Counts begin anew with each share, and with the server: while the traffic as a whole gets worse, a share that grows
    would make the canary look worse than the primary.
    """

    def __init__(self, settings: Settings, fleet: Fleet, operations: Operations) -> None:
        self._settings = settings
        self._fleet = fleet
        self._operations = operations
        # By model: the canary and its share, and what both sides had answered when that began.
        self._began: dict[str, tuple[tuple[int, int, float], Side, Side]] = {}
        # By model: the new primary and until when it is watched, and what it had answered when that began.
        self._watched: dict[str, tuple[tuple[int, float], Side]] = {}

    async def look(self) -> None:
        """Takes back whatever fails; raises GnomonError where that cannot be stored."""
        await self._take_back()
        await self._roll_back()

    async def _take_back(self) -> None:
        routes = [route for route in self._operations.routes.values() if route.canary]
        self._began = {route.model: self._began[route.model] for route in routes if route.model in self._began}
        for route in routes:
            limits = self._settings.model(route.model).canary
            primary, canary = self._sides(route, limits)
            if limits.rollback and self._operations.leads and (why := self._why(route, primary, canary, limits)):
                log.error("model '%s' version '%d': the canary is taken back: %s", route.model, route.canary, why)
                await self._operations.withdraw(Request(route.model, SERVER, why), route.canary)

    async def _roll_back(self) -> None:
        """Rolls back each delivery whose new primary fails where the old one did not, or strays from it."""
        routes = [r for r in self._operations.routes.values() if r.previous and r.watched > time.time()]
        self._watched = {route.model: self._watched[route.model] for route in routes if route.model in self._watched}
        for route in routes:
            limits = self._settings.model(route.model).canary
            old, new = (self._side(route, version, "primary", limits) for version in (route.previous, route.primary))
            key = (route.primary, route.watched)
            if route.model not in self._watched or self._watched[route.model][0] != key:
                # The old one is done, but for what was on its way.
                self._watched[route.model] = (key, new)
            since = new.since(self._watched[route.model][1])
            if limits.rollback and self._operations.leads and (why := self._against(route, old, since, limits)):
                log.error("model '%s' version '%d': it is rolled back: %s", route.model, route.primary, why)
                await self._operations.rollback(Request(route.model, SERVER, why), route.generation)

    def answered(self, route: Route) -> int:
        """Returns how many requests a route's canary has answered since it has its share."""
        return self._sides(route, self._settings.model(route.model).canary)[1].requests

    def _sides(self, route: Route, limits: CanarySettings) -> tuple[Side, Side]:
        """Returns what the primary and the canary have answered since the canary has had its share."""
        primary = self._side(route, route.primary, "primary", limits)
        now = (primary, self._side(route, route.canary, "canary", limits))
        key = (route.primary, route.canary, route.weight)
        if route.model not in self._began or self._began[route.model][0] != key:
            self._began[route.model] = (key, *now)
        _, *began = self._began[route.model]
        return now[0].since(began[0]), now[1].since(began[1])

    def _side(self, route: Route, version: int, role: str, limits: CanarySettings) -> Side:
        counts = self._fleet.counts.inferences
        mine = (c for c in counts if (c.model, c.version, c.role) == (route.model, version, role))
        return side(mine, limits.latency)

    def _against(self, route: Route, old: Side, new: Side, limits: CanarySettings) -> str:
        """Returns why a new primary is to be rolled back."""
        if found := failure(old, new, limits):
            return f"the new primary {found}"
        strayed = self._operations.judging.strayed(route)
        return f"the old primary is its shadow, and {strayed}" if strayed else ""

    def _why(self, route: Route, primary: Side, canary: Side, limits: CanarySettings) -> str:
        if found := failure(primary, canary, limits):
            return f"the canary {found}"
        rejected = self._operations.judging.rejected(route, route.canary)
        return f"as a shadow, {rejected}" if rejected else ""
