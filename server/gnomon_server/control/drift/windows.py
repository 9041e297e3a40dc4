"""The windows of this server: rows of the traffic as its workers counted them, until they are stored."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Final

from gnomon_protos.profiles import Counts
from gnomon_server.wire.drift import WindowCounts, WindowKey, decoded, encoded

# Seconds after the end of a window in which a request that belongs to it may still come to its end; of shorter windows,
# as long as they are.
LATE_SECONDS: Final = 30.0


class Windows:
    """Adds up what workers report; no I/O, for one thread."""

    def __init__(self) -> None:
        # Counts are stored under it, so that no other server's are replaced, nor those of an earlier life.
        self.life = uuid.uuid4().hex
        self._counts: dict[WindowKey, Counts] = {}
        self._news: set[WindowKey] = set()

    def reported(self, found: Iterable[WindowCounts]) -> None:
        """Takes rows that were counted since the report before."""
        for one in found:
            counts, known = decoded(one.counts), self._counts.get(one.key)
            self._counts[one.key] = counts if known is None else known + counts
            self._news.add(one.key)

    def news(self) -> list[WindowCounts]:
        """Returns what this server has counted in windows of which it has not been told that they are stored."""
        return [WindowCounts(key, encoded(self._counts[key])) for key in sorted(self._news)]

    def stored(self, rows: Sequence[WindowCounts], now: float | None = None) -> None:
        """Takes that these counts are stored; forgets windows to which nothing more comes."""
        now = time.time() if now is None else now
        for row in rows:
            if encoded(self._counts[row.key]) == row.counts:
                self._news.discard(row.key)
        # A clock that is set back must not find them gone.
        gone = [key for key in self._counts if key not in self._news and over(key.number + 1, key.seconds, now)]
        for key in gone:
            del self._counts[key]


def over(number: int, seconds: float, now: float) -> bool:
    """Whether nothing more comes to a window."""
    return (number + 1) * seconds + min(LATE_SECONDS, seconds) <= now


def newest_over(seconds: float, now: float) -> int:
    """Returns the number of the newest window to which nothing more comes."""
    return floor((now - min(LATE_SECONDS, seconds)) / seconds) - 1


def merged(rows: Iterable[WindowCounts]) -> dict[WindowKey, Counts]:
    """Returns the counts of each window as its best shadow saw it: of several, which see the same, that with most rows.

    Rows of several servers, and of several lives, are added.
    """
    sums: dict[WindowKey, Counts] = {}
    for row in rows:
        counts, known = decoded(row.counts), sums.get(row.key)
        sums[row.key] = counts if known is None else known + counts
    return _best(sums)


def _best(sums: Mapping[WindowKey, Counts]) -> dict[WindowKey, Counts]:
    best: dict[tuple[str, int, str, float, int], WindowKey] = {}
    for key in sorted(sums):
        where = (key.model, key.version, key.digest, key.seconds, key.number)
        if where not in best or sums[key].sum() > sums[best[where]].sum():
            best[where] = key
    return {key: sums[key] for key in best.values()}
