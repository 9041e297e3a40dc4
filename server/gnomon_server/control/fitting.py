"""The fitting of shadows: whether versions can be compared with their primary, before they become its shadows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from gnomon_server.control.desired import Desired
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.routes import Route
from gnomon_server.errors import Refused
from gnomon_server.models.lifecycle import FAILED

# Seconds in which most versions are loaded; what a slower one does not fit is said by its status.
TRY_SECONDS: Final = 20.0


class Fitting:
    """Belongs to control's event loop."""

    def __init__(self, fleet: Fleet, desired: Desired) -> None:
        self._fleet = fleet
        self._desired = desired

    @asynccontextmanager
    async def tried(self, model: str, versions: Iterable[int]) -> AsyncIterator[None]:
        """Has versions loaded as shadows are, without a request, for as long as the block lasts.

        A version that hangs must not keep others from changing routes: not to be held together with a lock.
        """
        async with AsyncExitStack() as stack:
            for version in versions:
                await stack.enter_async_context(self._fleet.tried((model, version), TRY_SECONDS))
            yield

    def check(self, after: Route, versions: Iterable[int], force: bool) -> bool:
        """Returns whether any of the versions is a shadow of this route only by force; raises Refused without it."""
        wrong = [text for version in sorted(versions) if (text := self._wrong(after, version))]
        if wrong and not force:
            raise Refused(wrong[0])
        return bool(wrong)

    def _wrong(self, after: Route, version: int) -> str:
        state, where = self._fleet.state(after.model, version), f"model '{after.model}' version '{version}'"
        if state.state == FAILED:
            return f"{where} cannot be loaded as a shadow (force makes it one that is counted): {state.reason}"
        found = self._desired.differences(after, version)
        if not found:
            return ""
        return (
            f"{where} does not fit its primary, version '{after.primary}' (declare how they correspond in "
            f"[models.{after.model}.compare.align.{version}], or force it, and its requests count as not_comparable): "
            f"{'; '.join(found)}"
        )
