"""The outlook of a server: what it knows at a moment, for the page, for the metrics and for alerts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from gnomon_server.control import snapshots
from gnomon_server.control.alerts.watch import Look
from gnomon_server.control.deliveries import Deliveries
from gnomon_server.control.drift.lookout import Lookout
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.operations import Operations
from gnomon_server.control.page import View
from gnomon_server.control.service import ControlService
from gnomon_server.errors import NotReady
from gnomon_server.telemetry import Snapshot

# Changes on the page.
SHOWN_CHANGES: Final = 10


class Outlook:
    """Looks and changes nothing; for the event loop that owns all of this."""

    def __init__(
        self,
        since_ns: int,
        fleet: Fleet,
        ledger: Ledger,
        operations: Operations,
        control: ControlService,
        deliveries: Deliveries,
        lookout: Lookout,
    ) -> None:
        """Takes when the server began, in nanoseconds since the epoch, and everything that knows something."""
        self._since_ns = since_ns
        self._fleet, self._ledger, self._operations = fleet, ledger, operations
        self._control, self._deliveries = control, deliveries
        self._lookout = lookout

    def snapshot(self) -> Snapshot:
        """Returns the counts and states for the metrics."""
        known = (self._fleet, self._ledger, self._operations, self._deliveries)
        return snapshots.snapshot(self._since_ns, *known, self._lookout.newest)

    async def view(self) -> View:
        """Returns what the page shows."""
        try:
            changes = await self._control.changes("", SHOWN_CHANGES)
        except NotReady:
            # The rest is in memory, and what one looks at while the store is away.
            changes = []
        statuses, reports = self._control.statuses(), self._control.reports()
        return View(statuses, reports, changes, self._deliveries.progress(), self._operations.storage.away)

    def look(self) -> Look:
        """Returns what an alert may be about."""
        reports, rollbacks = self._control.reports(), self._operations.rollbacks
        return Look(datetime.now(UTC), reports, rollbacks, self._deliveries.stuck, self._lookout.newest)
