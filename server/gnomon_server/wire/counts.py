"""What children count, cumulative since their start, so that a lost or repeated report does no harm."""

from __future__ import annotations

import msgspec


class HistogramCounts(msgspec.Struct, frozen=True):
    """A histogram over fixed bounds: one count a bucket, the last one for what lies above every bound."""

    counts: tuple[int, ...]
    # Sum of the observed values.
    total: float


class SketchCounts(msgspec.Struct, frozen=True):
    """Durations in the buckets of wire.sketch."""

    # (bucket, count) of those that hold any, ascending.
    buckets: tuple[tuple[int, int], ...]
    # Sum of the durations, in seconds.
    total: float

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(count for _, count in self.buckets)


class CallCount(msgspec.Struct, frozen=True):
    """Calls of one method that ended with one status."""

    method: str
    status: str
    durations: HistogramCounts


class SizeCount(msgspec.Struct, frozen=True):
    """Runs of one number of rows."""

    rows: int
    runs: int
    # Seconds, cumulative: preparing inputs, running, writing outputs.
    inputs: float
    running: float
    outputs: float


class InferenceCount(msgspec.Struct, frozen=True):
    """Requests that one version ran as one role."""

    model: str
    version: int
    # "primary", "canary", "previous" or "named".
    role: str
    # Empty for success, else the status.
    error: str
    # Seconds from receipt to answer.
    durations: HistogramCounts
    # Seconds of model run.
    runs: HistogramCounts
    # Rows of a run.
    batches: HistogramCounts
    # Seconds of requests that ran, cumulative: waiting for the run, preparing inputs, writing outputs.
    queue: float = 0.0
    inputs: float = 0.0
    outputs: float = 0.0
    # When the last run ended, in nanoseconds since the epoch; 0 without one.
    last_ns: int = 0
    sizes: tuple[SizeCount, ...] = ()


class FeedCount(msgspec.Struct, frozen=True):
    """What one feed of a frontend selected for one shadow in one epoch."""

    model: str
    primary: int
    shadow: int
    epoch: str
    # The feed, as its hello names it.
    source: str
    selected: int
    # Of these: never handed over (feed full, worker away).
    dropped: int
    # Of these: the primary failed, so that there is nothing to compare.
    primary_error: int


class SourceCount(msgspec.Struct, frozen=True):
    """What a worker has received of one feed."""

    model: str
    primary: int
    shadow: int
    source: str
    received: int
