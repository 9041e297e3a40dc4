"""Following: what other servers changed that share the store, made true here."""

from __future__ import annotations

import asyncio

from gnomon_server.control.desired import Desired
from gnomon_server.control.routes import Route
from gnomon_server.control.storage import Storage
from gnomon_server.control.store import Store
from gnomon_server.errors import GnomonError, NotReady


class Following:
    """Belongs to control's event loop; a store that nobody shares has nothing to follow."""

    def __init__(self, store: Store, desired: Desired) -> None:
        self._store = store
        self._desired = desired
        # Whether this server decides what nobody asked for.
        self.leads = not store.shared
        # The newest routes that other servers stored, as far as they are not true here.
        self._elsewhere: dict[str, Route] = {}
        self._hearing = asyncio.Lock()
        self.storage = Storage()

    @property
    def behind(self) -> bool:
        """Whether there is something to adopt."""
        return bool(self._elsewhere)

    async def hear(self) -> None:
        """Says that this server is alive, and takes what others say; raises NotReady if the store is away."""
        if not self._store.shared:
            return
        # The store says once what is new: who asks while another is being told would know less than that one.
        async with self._hearing:
            try:
                shared = await asyncio.to_thread(self._store.sync)
            except NotReady as error:
                self.storage.asked(error)
                raise
            self.storage.asked()
            self.leads = shared.leads
            self._elsewhere |= shared.routes

    async def adopt(self) -> None:
        """Makes what was heard true; nobody else may change routes meanwhile. Raises GnomonError where it cannot be."""
        failed: GnomonError | None = None
        for route in tuple(self._elsewhere.values()):
            try:
                await self._adopt(route)
            except GnomonError as error:
                # What answers here answers on; it is tried again, and the other models do not wait for it.
                failed = error
        if failed is not None:
            raise failed

    async def _adopt(self, route: Route) -> None:
        before = self._desired.routes.get(route.model, Route(route.model))
        # What is older than the route here was read before this server itself changed it.
        if route.generation > before.generation:
            # Where nothing answers yet, nothing can go on answering while the primary is loaded.
            answering = {route.primary, route.canary} - {0, before.primary, before.previous, before.canary}
            fresh = [version for version in answering if (route.model, version) in self._desired.refs]
            if before.primary and fresh:
                await self._desired.warm(route.model, *fresh)
            await self._desired.apply(route)
        del self._elsewhere[route.model]
