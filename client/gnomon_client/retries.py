"""How often and when a call is tried again.

Only UNAVAILABLE is tried again, by the client's own loop instead of gRPC's retryPolicy: all attempts and pauses of a
call then share one deadline, the synchronous and the asynchronous client behave alike, and nothing that a resolver
sends can widen the rule.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gnomon_client.errors import InputError


@dataclass(frozen=True)
class Retries:
    """Exponential back-off; `Retries(0)` tries once."""

    # Attempts after the first.
    count: int = 4
    # Seconds before the second attempt; each later pause is `factor` times as long, up to `longest_pause`.
    first_pause: float = 0.1
    factor: float = 2.0
    longest_pause: float = 2.0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"retries: expected a count >= 0, received {self.count}")
        if not (self.first_pause > 0 and self.longest_pause >= self.first_pause and self.factor >= 1):
            raise InputError(f"retries: expected 0 < first_pause <= longest_pause and factor >= 1, received {self}")

    def pause(self, retry: int, chance: float) -> float:
        """Returns the seconds before the retry of this number, the first being 0, for a `chance` in [0, 1).

        The jitter of 20 % is that of gRPC's own retry design (gRFC A6).
        """
        base = min(self.first_pause * self.factor ** min(retry, 64), self.longest_pause)
        return base * (0.8 + 0.4 * chance)


DEFAULT_RETRIES: Final = Retries()


class Attempts:
    """The time and the retries that are left to one call of a user, whatever number of RPCs it takes.

    Belongs to that call alone.
    """

    def __init__(
        self,
        retries: Retries,
        timeout: float | None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if timeout is not None and not 0 < timeout < math.inf:
            raise InputError(f"timeout: expected seconds > 0 or None, received {timeout}")
        self._retries = retries
        self._clock = clock
        self._chance = chance
        self._end = None if timeout is None else clock() + timeout
        self._used = 0

    def remaining(self) -> float | None:
        """Returns the seconds that are left, at least 0; None for no deadline."""
        return None if self._end is None else max(0.0, self._end - self._clock())

    def pause(self) -> float | None:
        """Takes one retry: returns the seconds to wait before it, None where no retry or too little time is left."""
        if self._used >= self._retries.count:
            return None
        pause = self._retries.pause(self._used, self._chance())
        remaining = self.remaining()
        if remaining is not None and pause >= remaining:
            return None
        self._used += 1
        return pause
