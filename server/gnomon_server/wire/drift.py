"""Counts of a primary's traffic over the bins of its profile."""

from __future__ import annotations

import msgspec
import numpy as np

from gnomon_protos.profiles import Counts


class WindowKey(msgspec.Struct, frozen=True, order=True):
    """One window of the traffic of one primary, as one of its shadows saw it."""

    model: str
    version: int
    # Of the profile.
    digest: str
    # The window begins `number` times so many seconds after the epoch, and lasts as many.
    seconds: float
    number: int
    shadow: int

    @property
    def since(self) -> float:
        """When it begins, in seconds since the epoch."""
        return self.number * self.seconds

    @property
    def until(self) -> float:
        """When it ends, in seconds since the epoch."""
        return (self.number + 1) * self.seconds


class WindowCounts(msgspec.Struct, frozen=True):
    """Rows in each bin of each feature."""

    key: WindowKey
    # int64, little-endian, of all features one after the other.
    counts: bytes


def encoded(counts: Counts) -> bytes:
    """Returns counts as they are sent and stored."""
    return counts.astype("<i8").tobytes()


def decoded(counts: bytes) -> Counts:
    """Returns counts as they were before they were encoded."""
    return np.frombuffer(counts, "<i8").astype(np.int64)
