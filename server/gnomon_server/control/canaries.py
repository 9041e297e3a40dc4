"""Canaries: looks at what each canary answers, and the primary that was one, and takes back what fails."""

from __future__ import annotations

import logging
import time

from gnomon_server.control.canary import failure
from gnomon_server.control.desired import Request
from gnomon_server.control.operations import Operations
from gnomon_server.control.routes import Route
from gnomon_server.control.store.tables import SERVER
from gnomon_server.control.trials import Trials
from gnomon_server.settings import CanarySettings, Settings

log = logging.getLogger(__name__)


class Canaries:
    """Belongs to control's event loop; `look` is called once a second or so."""

    def __init__(self, settings: Settings, operations: Operations, trials: Trials) -> None:
        self._settings = settings
        self._operations = operations
        self._trials = trials

    async def look(self) -> None:
        """Takes back whatever fails; raises GnomonError where that cannot be stored."""
        await self._take_back()
        await self._roll_back()

    async def _take_back(self) -> None:
        for route in [route for route in self._operations.routes.values() if route.canary]:
            limits = self._settings.model(route.model).canary
            if limits.rollback and self._operations.leads and (why := self._why(route, limits)):
                log.error("model '%s' version '%d': the canary is taken back: %s", route.model, route.canary, why)
                await self._operations.withdraw(Request(route.model, SERVER, why), route.canary)

    async def _roll_back(self) -> None:
        """Rolls back each delivery whose new primary fails where the old one did not, or strays from it."""
        for route in [r for r in self._operations.routes.values() if r.previous and r.watched > time.time()]:
            limits = self._settings.model(route.model).canary
            if limits.rollback and self._operations.leads and (why := self._against(route, limits)):
                log.error("model '%s' version '%d': it is rolled back: %s", route.model, route.primary, why)
                await self._operations.rollback(Request(route.model, SERVER, why), route.generation)

    def answered(self, route: Route) -> int:
        """Returns how many requests a route's canary has answered since it has its share."""
        return self._trials.of(route).by_canary.side(0.0).requests

    def _against(self, route: Route, limits: CanarySettings) -> str:
        """Returns why a new primary is to be rolled back."""
        trial = self._trials.of(route)
        if found := failure(trial.before.side(limits.latency), trial.by_primary.side(limits.latency), limits):
            return f"the new primary {found}"
        strayed = self._operations.judging.strayed(route)
        return f"the old primary is its shadow, and {strayed}" if strayed else ""

    def _why(self, route: Route, limits: CanarySettings) -> str:
        trial = self._trials.of(route)
        if found := failure(trial.by_primary.side(limits.latency), trial.by_canary.side(limits.latency), limits):
            return f"the canary {found}"
        rejected = self._operations.judging.rejected(route, route.canary)
        return f"as a shadow, {rejected}" if rejected else ""
