"""Deliveries: looks at each canary that is on its way to be the primary, and moves it on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from gnomon_server.control.alerts.watch import Stuck
from gnomon_server.control.canaries import Canaries
from gnomon_server.control.delivery import Progress, decide
from gnomon_server.control.desired import Request
from gnomon_server.control.operations import Operations
from gnomon_server.control.routes import Delivery, Route
from gnomon_server.control.store.tables import SERVER
from gnomon_server.control.trials import Trials
from gnomon_server.errors import GnomonError
from gnomon_server.settings import Settings
from gnomon_server.telemetry.conventions import PAUSED, RUNNING, STUCK

log = logging.getLogger(__name__)


class Deliveries:
    """Belongs to control's event loop; `look` is called once a second or so."""

    def __init__(self, settings: Settings, operations: Operations, trials: Trials) -> None:
        self._settings = settings
        self._operations = operations
        self.canaries = Canaries(settings, operations, trials)
        self._stuck: dict[str, Stuck] = {}

    @property
    def stuck(self) -> Sequence[Stuck]:
        """Those that should have gone on long ago."""
        return tuple(self._stuck.values())

    @property
    def states(self) -> Mapping[tuple[str, int], str]:
        """One of conventions.DELIVERY_STATES for each model and its canary, as far as this server decides."""
        return {
            (route.model, route.canary): self._state(route, route.delivery)
            for route in self._operations.routes.values()
            if route.delivery is not None and self._operations.leads
        }

    def progress(self) -> Mapping[str, Progress]:
        """Returns where each delivery stands, by model; that it is stuck knows the server that decides."""
        found = {}
        for route in self._operations.routes.values():
            if route.delivery is not None:
                steps = len(self._settings.model(route.model).delivery.steps)
                seconds, state = max(0.0, time.time() - route.delivery.began), self._state(route, route.delivery)
                reason = self._stuck[route.model].reason if state == STUCK else ""
                found[route.model] = Progress(route.delivery.step + 1, steps, seconds, state, reason)
        return found

    def _state(self, route: Route, delivery: Delivery) -> str:
        if delivery.paused:
            return PAUSED
        known = self._stuck.get(route.model)
        # It may have gone on since the last look.
        return STUCK if known and (known.version, known.step) == (route.canary, delivery.step + 1) else RUNNING

    async def look(self) -> None:
        """Moves on what is due; what cannot be is tried again, and reported once it has taken long enough."""
        stuck: dict[str, Stuck] = {}
        for route in self._operations.routes.values():
            if route.delivery is None or not self._operations.leads:
                continue
            settings = self._settings.model(route.model).delivery
            found = decide(route.delivery, settings, time.time(), self.canaries.answered(route))
            reason = found.reason
            if found.move != "hold":
                reason = await self._moved(route)
            if found.stuck and reason:
                stuck[route.model] = Stuck(route.model, route.canary, route.delivery.step + 1, reason)
        for model in stuck.keys() - self._stuck.keys():
            one = stuck[model]
            log.warning("model '%s': the delivery of version %d is stuck: %s", model, one.version, one.reason)
        self._stuck = stuck

    async def _moved(self, route: Route) -> str:
        """Moves a delivery on; returns why it cannot be, or nothing."""
        try:
            await self._operations.deliver_on(Request(route.model, SERVER, "the step is complete"), route.generation)
        except GnomonError as error:
            return str(error)
        return ""
