"""What was used of late: a mapping with a bound, which lets go of what nobody used for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most so many entries; times are seconds of one clock that never goes back."""

    def __init__(self, most: int, idle: float) -> None:
        """Takes the most entries, and the seconds after its last use in which one is forgotten."""
        self._most = most
        self._idle = idle
        # With the time of its last use; the one that was used longest ago is first.
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        # Entries that had to go though they were in use.
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K, now: float) -> V | None:
        """Returns what was kept, which is used by that; None if it is not known any more."""
        found = self._entries.get(key)
        if found is None or now - found[1] > self._idle:
            return None
        self.put(key, found[0], now)
        return found[0]

    def put(self, key: K, value: V, now: float) -> None:
        """Keeps a value, and forgets what is idle or has no place any more."""
        self._entries[key] = (value, now)
        self._entries.move_to_end(key)
        while True:
            oldest, (_, used) = next(iter(self._entries.items()))
            idle = now - used > self._idle
            if not idle and len(self._entries) <= self._most:
                return
            del self._entries[oldest]
            self.evicted += not idle

    def forget(self, key: K) -> None:
        """Forgets an entry, if it is there."""
        self._entries.pop(key, None)
