"""The circuit breaker of a remote shadow: after failures in a row it is left alone for a while; decides purely."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Breaker:
    """Whether to call; times are seconds of one clock."""

    # Failures in a row that open it, and seconds after which one call is let through to see.
    patience: int
    pause: float
    failures: int = 0
    # When the last failure was.
    failed: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may be tried."""
        return not self.is_open or now - self.failed >= self.pause

    @property
    def is_open(self) -> bool:
        """Whether the other side is taken for gone."""
        return self.failures >= self.patience

    def after(self, reached: bool, now: float) -> Breaker:
        """Returns the breaker after a call, which the other side answered in some way or not."""
        if reached:
            return Breaker(self.patience, self.pause)
        return Breaker(self.patience, self.pause, self.failures + 1, now)
