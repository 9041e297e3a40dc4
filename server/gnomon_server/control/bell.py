"""The bell: wakes those who wait for something to become so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Rung whenever something has changed that somebody may wait for; belongs to one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._ringing: set[asyncio.Task[None]] = set()

    def ring(self) -> None:
        """Has everybody who waits look again."""
        task = asyncio.create_task(self._ring())
        self._ringing.add(task)
        task.add_done_callback(self._ringing.discard)

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits until something is so; raises TimeoutError if that takes too long."""
        async with self._changed, asyncio.timeout(seconds):
            await self._changed.wait_for(condition)

    async def _ring(self) -> None:
        async with self._changed:
            self._changed.notify_all()
