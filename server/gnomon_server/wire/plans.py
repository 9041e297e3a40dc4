"""What control wishes of its children: whole plans, never a change."""

from __future__ import annotations

import msgspec

from gnomon_server.settings import Policy


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base: a tagged, immutable message."""


class VersionRef(msgspec.Struct, frozen=True):
    """One version on disk."""

    model: str
    version: int
    folder: str
    # Digest of the model file that was first served under this number; empty for a new version.
    digest: str = ""


class ShadowFeed(msgspec.Struct, frozen=True):
    """Where a frontend mirrors a model's requests to."""

    model: str
    version: int
    # Share of requests, in (0, 1].
    sample: float
    # Path of the worker's Unix socket.
    address: str
    # The worker's life: a restarted worker has another epoch.
    epoch: str
    # Whether the worker calls another server, which may be one that shadows this one.
    elsewhere: bool = False


class ModelPlan(msgspec.Struct, frozen=True):
    """What a frontend does for one model."""

    name: str
    # 0: none; the model answers nothing, and nobody expects it to.
    primary: int
    # Versions to hold loaded and warm, the primary among them.
    versions: tuple[VersionRef, ...]
    shadows: tuple[ShadowFeed, ...]
    # The version that answers a share of the requests, in (0, 1]; 0: none.
    canary: int = 0
    weight: float = 0.0
    # Those of `versions` that have no role, and answer only when they are named.
    named: tuple[int, ...] = ()


class FrontendPlan(Message, frozen=True, tag="frontend_plan"):
    """The whole wish for a frontend."""

    generation: int
    models: tuple[ModelPlan, ...]


class Observing(msgspec.Struct, frozen=True):
    """What makes an observation on which a verdict may rest."""

    # Consecutive requests of which one observation is the mean.
    block: int = 50
    # Whether only the first occurrence of an input counts.
    dedupe: bool = True
    # Seconds of model run per request that are looked at; 0: none.
    latency: float = 0.0
    # Predicates of the segments in which the shadow must hold.
    segments: tuple[str, ...] = ()


def observing(policy: Policy) -> Observing:
    """Returns what a policy asks to be observed."""
    return Observing(
        policy.block, policy.dedupe, policy.latency, tuple(sorted({one.where for one in policy.segments.values()}))
    )


class WorkerPlan(Message, frozen=True, tag="worker_plan"):
    """The whole wish for a shadow worker: one version, mirrored from one model."""

    version: VersionRef
    # Path of the Unix socket to listen on.
    address: str
    epoch: str
    observing: Observing = Observing()
    # With which requests of that primary are repeated; None: with none. A later plan may name another one.
    primary: VersionRef | None = None
    # Seconds after a request in which its label counts; 0: labels are not judged.
    horizon: float = 0.0
    # Seconds of a window in which the rows of the traffic are counted by the primary's profile; 0: they are not.
    window: float = 0.0
    # Whether labels whose requests it does not know go to other servers.
    passes: bool = False


class Drain(Message, frozen=True, tag="drain"):
    """Stop taking work, finish what was taken, report and exit."""

    grace_seconds: float


class RegionRef(msgspec.Struct, frozen=True):
    """A region of shared memory, as its client registered it."""

    name: str
    # As of shm_open.
    key: str
    offset: int
    byte_size: int


class Regions(Message, frozen=True, tag="regions"):
    """The whole list of regions; told before a ReportNow, it is known once that is answered."""

    regions: tuple[RegionRef, ...]


class ReportNow(Message, frozen=True, tag="report_now"):
    """Report at once; numbers rise."""

    number: int
