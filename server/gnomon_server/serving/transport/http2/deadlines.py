"""Deadlines of calls, kept in ticks: adding and removing one costs a set operation, however many wait."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

# Seconds; a deadline is noticed at most this late. The client's own clock ends its wait in time.
TICK: Final = 0.01
# Deadlines further away share coarser ticks, at most 2 % late: ticks until then, and as how many they count. The
# largest grpc-timeout is 2^45 ticks; ever coarser ones keep what clients can ask for to some thousand ticks.
COARSE: Final = tuple((1 << bits, 1 << (bits - 6)) for bits in range(42, 6, -4))
FAR: Final = COARSE[-1][0] * TICK

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Tells when items are due; belongs to the running event loop."""

    def __init__(self, due: Callable[[Item], None]) -> None:
        self._due = due
        # Its clock is time.monotonic.
        self._loop = asyncio.get_running_loop()
        # None where all of a tick's items were removed: a set keeps the memory that it once needed.
        self._ticks: dict[int, set[Item] | None] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Item, seconds: float) -> int:
        """Adds an item that is due in so many seconds; returns the tick that `remove` needs."""
        tick = int((time.monotonic() + seconds) / TICK) + 1
        if seconds >= FAR:
            tick = _coarse(tick, seconds)
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


def _coarse(tick: int, seconds: float) -> int:
    width = next(width for distance, width in COARSE if seconds >= distance * TICK)
    return -(-tick // width) * width
