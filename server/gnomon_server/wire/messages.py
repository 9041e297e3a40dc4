"""The messages between the control process and its children."""

from __future__ import annotations

from typing import Final

import msgspec

from gnomon_server.wire.counts import CallCount, FeedCount, InferenceCount, SourceCount
from gnomon_server.wire.drift import WindowCounts
from gnomon_server.wire.labels import Adopt, Label, Labelled, Labels, PairLabels
from gnomon_server.wire.plans import Drain, FrontendPlan, Message, Regions, ReportNow, WorkerPlan
from gnomon_server.wire.questions import Answer, Question
from gnomon_server.wire.signatures import Tensors
from gnomon_server.wire.tallies import KeptRequest, PairTally, SegmentSearch
from gnomon_server.wire.traces import CallTrace, ShadowTrace

# Metadata of a call for whose answer nobody waits, since a shadow makes it.
SHADOW_MARKER: Final = "gnomon-shadow"


class VersionState(msgspec.Struct, frozen=True):
    """How a child's attempt at a version stands."""

    model: str
    version: int
    # "loading", "ready" or "failed".
    state: str
    reason: str = ""
    # Digest of the loaded file.
    digest: str = ""
    # What it takes and gives, once it is loaded.
    signature: Tensors | None = None


class FrontendAck(Message, frozen=True, tag="frontend_ack"):
    """The plan of this generation is true now, but for the versions that failed."""

    generation: int
    # Port that answers.
    port: int
    versions: tuple[VersionState, ...]


class WorkerAck(Message, frozen=True, tag="worker_ack"):
    """The worker's version is ready, or failed."""

    version: VersionState


class FrontendReport(Message, frozen=True, tag="frontend_report"):
    """Everything a frontend has counted since its start; traces only once."""

    calls: tuple[CallCount, ...]
    inferences: tuple[InferenceCount, ...]
    feeds: tuple[FeedCount, ...]
    traces: tuple[CallTrace, ...]
    # Traces that were left out for want of room.
    traces_dropped: int
    in_flight: int
    # Of the newest ReportNow that it answers.
    number: int = 0
    # Sequences whose decision was forgotten for want of room.
    sequences_evicted: int = 0


class WorkerReport(Message, frozen=True, tag="worker_report"):
    """Everything a worker has counted since its start; traces and what ended sources sent only once."""

    epoch: str
    pairs: tuple[PairTally, ...]
    # Whatever the tallies settle is among it.
    sources: tuple[SourceCount, ...]
    # Sources whose connection is over and was read to its end: their counts in this report are final.
    ended: tuple[str, ...]
    queue_depth: int
    traces: tuple[ShadowTrace, ...]
    traces_dropped: int
    # Sent only once, as traces are.
    kept: tuple[KeptRequest, ...] = ()
    searches: tuple[SegmentSearch, ...] = ()
    labels: tuple[PairLabels, ...] = ()
    # Rows since the last report that has any.
    windows: tuple[WindowCounts, ...] = ()


class Adopted(Message, frozen=True, tag="adopted"):
    """What became of labels that another server passed on: one message, so that nobody hears half of it."""

    number: int
    # Counts those whose requests the worker knows.
    report: WorkerReport
    # The others, which it counts nowhere.
    unknown: tuple[Label, ...]


class Drained(Message, frozen=True, tag="drained"):
    """The last message of a child: its reports are complete."""


ToChild = FrontendPlan | WorkerPlan | Drain | Regions | ReportNow | Answer | Labels | Adopt
FromChild = FrontendAck | WorkerAck | FrontendReport | WorkerReport | Question | Labelled | Adopted | Drained
