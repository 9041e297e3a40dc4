"""Deadlines of calls, kept in ticks: adding and removing one costs a set operation, however many wait."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final, Generic, TypeVar

# Seconds; a deadline is noticed at most this late. The client's own clock ends its wait in time.
TICK: Final = 0.01

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Tells when items are due; belongs to the running event loop."""

    def __init__(self, due: Callable[[Item], None]) -> None:
        self._due = due
        self._loop = asyncio.get_running_loop()
        self._ticks: dict[int, set[Item]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Item, when: float) -> int:
        """Adds an item that is due at `when` on the loop's clock; returns the tick that `remove` needs."""
        tick = int(when / TICK) + 1
        items = self._ticks.get(tick)
        if items is None:
            self._ticks[tick] = {item}
            heapq.heappush(self._order, tick)
            self._arm()
        else:
            items.add(item)
        return tick

    def remove(self, item: Item, tick: int) -> None:
        """Forgets an item."""
        items = self._ticks.get(tick)
        if items is not None:
            items.discard(item)

    def close(self) -> None:
        """Forgets everything."""
        self._ticks.clear()
        self._order.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._order[0] * TICK, self._strike)

    def _strike(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._order and self._order[0] * TICK <= now:
            for item in self._ticks.pop(heapq.heappop(self._order)):
                self._due(item)
        if self._order:
            self._arm()
