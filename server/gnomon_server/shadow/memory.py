"""The memory of a worker: bounded, and the first that a machine in need takes back."""

from __future__ import annotations

import logging
import resource
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

# Exit status of a worker that has reached its bound.
OUT_OF_MEMORY: Final = 70
# A worker ends at this share of its bound, while it can still say so; beyond the bound every allocation fails.
NEARLY: Final = 0.9
_PAGE: Final = resource.getpagesize()
_STATM: Final = Path("/proc/self/statm")
_SCORE: Final = Path("/proc/self/oom_score_adj")


def volunteer() -> None:
    """Has the kernel kill this process before any other if the machine runs out of memory; Linux only."""
    try:
        _SCORE.write_text("1000")
    except OSError as error:
        log.debug("no preference for running out of memory: %s", error)


class Bound:
    """The bytes of private memory (RLIMIT_DATA: heap, anonymous mappings, stacks) that this process may take."""

    def __init__(self, most: int) -> None:
        """Sets the limit of the process; 0 is none."""
        self._most = most
        if most:
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))

    @property
    def reached(self) -> bool:
        """Whether the process takes nearly all that it may; False where the system does not say what it takes."""
        return bool(self._most) and private() >= NEARLY * self._most


def private() -> int:
    """Returns the bytes of private memory that this process takes; 0 where the system does not say."""
    try:
        return int(_STATM.read_text().split()[5]) * _PAGE
    except OSError:
        return 0
