"""Deadlines of calls, kept in ticks: adding and removing one costs a set operation, however many wait."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, Generic, TypeVar

# Seconds; a deadline is noticed at most this late. The client's own clock ends its wait in time.
TICK: Final = 0.01
# Deadlines further away share coarser ticks, at most 2 % late: ticks until then, and as how many they count.
COARSE: Final = ((1 << 10, 1 << 4), (1 << 14, 1 << 8), (1 << 18, 1 << 12))

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Tells when items are due; belongs to the running event loop."""

    def __init__(self, due: Callable[[Item], None]) -> None:
        self._due = due
        self._loop = asyncio.get_running_loop()
        # None where all of a tick's items were removed: a set keeps the memory that it once needed.
        self._ticks: dict[int, set[Item] | None] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Item, seconds: float) -> int:
        """Adds an item that is due in so many seconds; returns the tick that `remove` needs."""
        tick = self._tick(seconds)
        items = self._ticks.get(tick)
        if items is not None:
            items.add(item)
            return tick
        if tick not in self._ticks:
            heapq.heappush(self._order, tick)
            if self._order[0] == tick:
                self._arm()
        self._ticks[tick] = {item}
        return tick

    def remove(self, item: Item, tick: int) -> None:
        """Forgets an item."""
        items = self._ticks.get(tick)
        if items is not None:
            items.discard(item)
            if not items:
                self._ticks[tick] = None

    def close(self) -> None:
        """Forgets everything."""
        self._ticks.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, seconds: float) -> int:
        tick = int((self._loop.time() + seconds) / TICK) + 1
        away = seconds / TICK
        if away >= COARSE[0][0]:
            for distance, width in reversed(COARSE):
                if away >= distance:
                    return -(-tick // width) * width
        return tick

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._order[0] * TICK, self._strike)

    def _strike(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._order and self._order[0] * TICK <= now:
            # A copy: whoever is due may remove others.
            for item in tuple(self._ticks.pop(heapq.heappop(self._order)) or ()):
                self._due(item)
        if self._order:
            self._arm()
