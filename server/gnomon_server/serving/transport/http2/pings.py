"""The patience with PINGs: a few are a keepalive, many are an attack, or a client that is set up badly."""

from __future__ import annotations

from collections.abc import Callable


class PingStrikes:
    """Counts PINGs that come without calls: a burst is free, and then one in so many seconds."""

    def __init__(self, burst: int, seconds: float, clock: Callable[[], float]) -> None:
        self._burst, self._seconds, self._clock = burst, seconds, clock
        self._strikes = 0.0
        self._last = clock()
        self._begun = 0

    def clear(self) -> None:
        """Takes that there was traffic: clients measure bandwidth with a PING for every burst of data."""
        self._strikes = 0.0

    def out(self, begun: int) -> bool:
        """Takes a PING and the number of calls so far; returns whether it was one too many."""
        now = self._clock()
        if begun != self._begun:
            self._begun = begun
            self.clear()
        self._strikes = max(0.0, self._strikes - (now - self._last) / self._seconds) + 1
        self._last = now
        return self._strikes > self._burst
