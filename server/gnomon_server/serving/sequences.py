"""The sequences of a frontend: each shadow sees all requests of one or none.

What a sequence's first request decides holds for the rest, whatever becomes of the share meanwhile. Once one of them
was lost on its way to a shadow, the rest is lost to it as well: half a sequence would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from gnomon_server.recent import Recent
from gnomon_server.wire.plans import ShadowFeed
from gnomon_server.wire.record import Place

# Sequences and shadows that are remembered together; of those beyond, the ones that were idle longest are decided anew.
MOST: Final = 65_536
# Seconds without a request after which a sequence is over.
IDLE_SECONDS: Final = 60.0


class Fate(Enum):
    """What becomes of a sequence on its way to a shadow."""

    MIRRORED = "mirrored"
    UNSEEN = "unseen"
    LOST = "lost"


class Sequences:
    """What was decided of sequences; belongs to one event loop."""

    def __init__(self, most: int = MOST, idle: float = IDLE_SECONDS) -> None:
        # By model, shadow and sequence: its fate, and the life of the worker that it began with.
        self._decided: Recent[tuple[str, int, bytes], tuple[Fate, str]] = Recent(most, idle)

    @property
    def evicted(self) -> int:
        """Sequences that were forgotten before their time, for want of room."""
        return self._decided.evicted

    def fate(self, target: ShadowFeed, place: Place, now: float, selected: Callable[[], bool]) -> Fate:
        """Returns what becomes of a request; `selected` says whether its shadow is to see it, if it is the first.

        `now` is a time.perf_counter().
        """
        key = _key(target, place)
        known = None if place.starts else self._decided.get(key, now)
        if known is None:
            fate = Fate.MIRRORED if selected() else Fate.UNSEEN
        elif known == (Fate.MIRRORED, target.epoch):
            return Fate.MIRRORED
        else:
            # A worker that begins anew has not seen how the sequence began.
            fate = Fate.UNSEEN if known[0] is Fate.UNSEEN else Fate.LOST
        self._decided.put(key, (fate, target.epoch), now)
        return fate

    def lose(self, target: ShadowFeed, place: Place, now: float) -> None:
        """Takes that a request was lost on its way."""
        if place.sequence:
            self._decided.put(_key(target, place), (Fate.LOST, target.epoch), now)

    def end(self, target: ShadowFeed, place: Place) -> None:
        """Takes that a request was handed over, after which its sequence may be over."""
        if place.ends:
            self._decided.forget(_key(target, place))


def _key(target: ShadowFeed, place: Place) -> tuple[str, int, bytes]:
    return target.model, target.version, place.sequence
