"""The guard: how far mirroring is thinned so that the primary is relieved; decides purely, from what was read.

Each step halves the share of every shadow. Sampling is keyed, so that the requests of the smaller share are among those
of the larger one, and which requests go missing has nothing to do with how the shadow answers them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

# Halvings at most: a thousandth of the share still says that the shadow lives.
MOST: Final = 10
# Seconds that a step is given to take effect before the next.
SETTLE: Final = 1.0
# Calm is what lies below this part of a limit, so that a share does not flicker around it.
CALM: Final = 0.8


@dataclass(frozen=True)
class Reading:
    """What was read of one thing that has a limit; it lies between `low` and `high`."""

    # As a report says it: "latency", "queue" or "pressure".
    cause: str
    low: float
    high: float
    limit: float

    @property
    def over(self) -> bool:
        """Whether it is above its limit for certain."""
        return self.low > self.limit

    @property
    def calm(self) -> bool:
        """Whether it is well below its limit for certain."""
        return self.high <= CALM * self.limit


@dataclass(frozen=True)
class Guard:
    """How far one model's mirroring is thinned, and since when; times are seconds of one clock."""

    halvings: int = 0
    # When `halvings` changed last, and why it grew.
    changed: float = float("-inf")
    cause: str = ""
    # Since when everything has been calm; None: it is not.
    calm_since: float | None = None

    @property
    def factor(self) -> float:
        """What the share of each shadow is multiplied with, in (0, 1]."""
        return 2.0**-self.halvings

    def after(self, readings: Iterable[Reading], now: float, recovery: float) -> Guard:
        """Returns the guard after a look; `recovery` is the seconds of calm after which the share doubles again."""
        readings = tuple(readings)
        over = next((reading.cause for reading in readings if reading.over), "")
        if over:
            if self.halvings == MOST or now - self.changed < SETTLE:
                return replace(self, calm_since=None)
            return Guard(self.halvings + 1, now, over)
        if not all(reading.calm for reading in readings):
            return replace(self, calm_since=None)
        since = now if self.calm_since is None else self.calm_since
        if not self.halvings or now - since < recovery:
            return replace(self, calm_since=since)
        return Guard(self.halvings - 1, now, self.cause, now)
