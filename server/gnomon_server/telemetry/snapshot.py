"""Everything that the metrics are made from, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gnomon_server.wire.counts import CallCount, HistogramCounts, InferenceCount
from gnomon_server.wire.tallies import OutputTally


@dataclass(frozen=True)
class PairCounts:
    """What is known of one shadow beside one primary, over all frontends and all lives of its worker."""

    model: str
    shadow: int
    # Outcome to requests, for the outcomes in conventions.OUTCOMES.
    outcomes: Mapping[str, int]
    # Compared requests that disagree anywhere.
    disagreeing: int
    outputs: tuple[OutputTally, ...]
    # Seconds of the shadow's run per request, over DURATION_BOUNDS.
    shadow_runs: HistogramCounts
    # Nanoseconds since the epoch: when its counting began; tallies outlive the server.
    since_ns: int
    # Labels by what became of them, for the outcomes in conventions.LABEL_OUTCOMES; empty where none was received.
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftState:
    """What the last window that was judged shows of one feature or output of a primary."""

    model: str
    version: int
    feature: str
    # In [0, 1].
    distance: float
    alarms: bool


@dataclass(frozen=True)
class Snapshot:
    """Cumulative counts and current states; entries with the same keys are added together."""

    # Nanoseconds since the epoch: when the server's own counting began, and now.
    since_ns: int
    time_ns: int
    calls: tuple[CallCount, ...] = ()
    inferences: tuple[InferenceCount, ...] = ()
    pairs: tuple[PairCounts, ...] = ()
    # (model, shadow version) to requests that wait in the worker.
    queue_depths: Mapping[tuple[str, int], int] = field(default_factory=dict)
    # (model, shadow version) to the share of requests that is mirrored now, as far as the guard lets it.
    shares: Mapping[tuple[str, int], float] = field(default_factory=dict)
    # (model, shadow version) to one of conventions.VERDICTS.
    verdicts: Mapping[tuple[str, int], str] = field(default_factory=dict)
    # (model, version) to one of conventions.VERSION_STATES.
    states: Mapping[tuple[str, int], str] = field(default_factory=dict)
    # (model, one of conventions.SWITCHES) to how often its primary changed so.
    switches: Mapping[tuple[str, str], int] = field(default_factory=dict)
    # (model, canary) to the share of requests that it answers.
    canaries: Mapping[tuple[str, int], float] = field(default_factory=dict)
    # (model, canary) to the step of its delivery, from 1.
    steps: Mapping[tuple[str, int], int] = field(default_factory=dict)
    # (model, canary) to one of conventions.DELIVERY_STATES, where this server decides about it.
    deliveries: Mapping[tuple[str, int], str] = field(default_factory=dict)
    drifts: tuple[DriftState, ...] = ()
    # Calls that have no answer yet.
    in_flight: int = 0
    # Sequences of requests whose decision was forgotten before they ended, for want of room.
    sequences_evicted: int = 0
