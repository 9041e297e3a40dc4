"""Outcomes: what became of mirrored requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.comparing import Compared, Values
from gnomon_server.shadow.digests import Inputs
from gnomon_server.wire.record import Record

COMPARED: Final = "compared"
# The shadow raised on it.
SHADOW_ERROR: Final = "shadow_error"
# The shadow did not answer by the deadline.
TIMEOUT: Final = "timeout"
# Never run: no room, or no time left at the end.
DROPPED: Final = "dropped"
# The signatures differ.
NOT_COMPARABLE: Final = "not_comparable"


@dataclass(frozen=True)
class Uncompared:
    """Records that ended in another outcome than `compared`."""

    records: Sequence[Record]
    outcome: str
    # Nanoseconds since the epoch, of the shadow's run; 0 if it did not run.
    start_ns: int = 0
    end_ns: int = 0
    # None where they are not known.
    inputs: Inputs | None = None
    # What was tried and what it holds, nothing of the shadow's; None where it was not tried.
    tried: Batch | None = None
    values: Values | None = None

    @property
    def never_ran(self) -> bool:
        """Whether the shadow did not meet them, or nobody knows whether it did."""
        return self.outcome == DROPPED or (self.outcome == TIMEOUT and not self.end_ns)

    @property
    def guilty(self) -> bool:
        """Whether it is the shadow's own fault; else nobody knows what it would have answered."""
        return self.outcome in (SHADOW_ERROR, NOT_COMPARABLE) or (self.outcome == TIMEOUT and self.end_ns > 0)


Ended = Compared | Uncompared
