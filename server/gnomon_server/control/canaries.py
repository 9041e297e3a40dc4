"""Canaries: looks at what each canary answers, and takes back one that fails."""

from __future__ import annotations

import logging

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

    async def look(self) -> None:
        """Takes back every canary that fails; raises GnomonError where that cannot be stored."""
        routes = [route for route in self._operations.routes.values() if route.canary]
        self._began = {route.model: self._began[route.model] for route in routes if route.model in self._began}
        for route in routes:
            limits = self._settings.model(route.model).canary
            primary, canary = self._sides(route, limits)
            if limits.rollback and self._operations.leads and (why := self._why(route, primary, canary, limits)):
                log.error("model '%s' version '%d': the canary is taken back: %s", route.model, route.canary, why)
                await self._operations.withdraw(Request(route.model, SERVER, why), route.canary)

    def answered(self, route: Route) -> int:
        """Returns how many requests a route's canary has answered since it has its share."""
        return self._sides(route, self._settings.model(route.model).canary)[1].requests

    def _sides(self, route: Route, limits: CanarySettings) -> tuple[Side, Side]:
        """Returns what the primary and the canary have answered since the canary has had its share."""
        mine = [count for count in self._fleet.counts.inferences if count.model == route.model]
        now = (
            side((c for c in mine if (c.version, c.role) == (route.primary, "primary")), limits.latency),
            side((c for c in mine if (c.version, c.role) == (route.canary, "canary")), limits.latency),
        )
        key = (route.primary, route.canary, route.weight)
        if route.model not in self._began or self._began[route.model][0] != key:
            self._began[route.model] = (key, *now)
        _, primary, canary = self._began[route.model]
        return now[0].since(primary), now[1].since(canary)

    def _why(self, route: Route, primary: Side, canary: Side, limits: CanarySettings) -> str:
        if found := failure(primary, canary, limits):
            return f"the canary {found}"
        rejected = self._operations.rejected(route, route.canary)
        return f"as a shadow, {rejected}" if rejected else ""
