"""The messages between the control process and its children.

Control sends whole plans (the wish, never a change); children make them true and report whole, cumulative counts since
their start, so that a lost or repeated report does no harm.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gnomon_server.config import Policy


class _Message(msgspec.Struct, frozen=True, tag=True):
    """Base: a tagged, immutable message."""


class VersionRef(msgspec.Struct, frozen=True):
    """One version on disk."""

    model: str
    version: int
    folder: str
    # Digest of the model file that was first served under this number; empty for a new version.
    digest: str = ""


# Metadata of a call for whose answer nobody waits, since a shadow makes it.
SHADOW_MARKER: Final = "gnomon-shadow"


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


class FrontendPlan(_Message, frozen=True, tag="frontend_plan"):
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


def observing(policy: Policy) -> Observing:
    """Returns what a policy asks to be observed."""
    return Observing(policy.block, policy.dedupe, policy.latency)


class WorkerPlan(_Message, frozen=True, tag="worker_plan"):
    """The whole wish for a shadow worker: one version, mirrored from one model."""

    version: VersionRef
    # Path of the Unix socket to listen on.
    address: str
    epoch: str
    observing: Observing = Observing()
    # With which requests of that primary are repeated; None: with none. A later plan may name another one.
    primary: VersionRef | None = None


class Drain(_Message, frozen=True, tag="drain"):
    """Stop taking work, finish what was taken, report and exit."""

    grace_seconds: float


class RegionRef(msgspec.Struct, frozen=True):
    """A region of shared memory, as its client registered it."""

    name: str
    # As of shm_open.
    key: str
    offset: int
    byte_size: int


class Regions(_Message, frozen=True, tag="regions"):
    """The whole list of regions; told before a ReportNow, it is known once that is answered."""

    regions: tuple[RegionRef, ...]


class ReportNow(_Message, frozen=True, tag="report_now"):
    """Report at once; numbers rise."""

    number: int


class VersionState(msgspec.Struct, frozen=True):
    """How a child's attempt at a version stands."""

    model: str
    version: int
    # "loading", "ready" or "failed".
    state: str
    reason: str = ""
    # Digest of the loaded file.
    digest: str = ""


class FrontendAck(_Message, frozen=True, tag="frontend_ack"):
    """The plan of this generation is true now, but for the versions that failed."""

    generation: int
    # Port that answers.
    port: int
    versions: tuple[VersionState, ...]


class WorkerAck(_Message, frozen=True, tag="worker_ack"):
    """The worker's version is ready, or failed."""

    version: VersionState


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
    # "primary" or "previous".
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


class CallTrace(msgspec.Struct, frozen=True):
    """A served call, enough to create its spans afterwards."""

    method: str
    status: str
    # 16 bytes.
    trace_id: bytes
    span_id: int
    # 0: none.
    parent_id: int
    trace_state: str
    # Nanoseconds since the epoch.
    start_ns: int
    end_ns: int
    peer: str
    # Empty where no version ran.
    model: str = ""
    version: int = 0
    # 0 where no version ran.
    run_start_ns: int = 0
    run_end_ns: int = 0
    # Of the version that ran; only a primary's calls are mirrored.
    role: str = "primary"


class ShadowTrace(msgspec.Struct, frozen=True):
    """One mirrored request as the shadow ran it."""

    # The primary's call; exported as well if `unsampled`, since no one has done so.
    call: CallTrace
    unsampled: bool
    model: str
    version: int
    outcome: str
    divergent: bool
    start_ns: int
    end_ns: int
    # (output, divergence) of the request's worst row.
    divergences: tuple[tuple[str, float], ...]


class FrontendReport(_Message, frozen=True, tag="frontend_report"):
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


class FlipTally(msgspec.Struct, frozen=True):
    """Rows for which the primary decided one thing and the shadow another."""

    before: str
    after: str
    rows: int
    # Of all rows together.
    cost: float


class OutputTally(msgspec.Struct, frozen=True):
    """Rows of one output, compared."""

    output: str
    comparator: str
    tolerance: float
    rows: int
    disagreements: int
    # Sum and maximum of the rows' divergences.
    divergence_sum: float
    divergence_max: float
    # Of the rows' divergences, over DIVERGENCE_BOUNDS.
    histogram: HistogramCounts
    flips: tuple[FlipTally, ...] = ()
    # Rows in which the primary's output is no value that the comparator can take: NaN, or no probabilities.
    unfit: int = 0
    # What arithmetic alone explains of a row's divergence, and the sum of what exceeds it.
    floor: float = 0.0
    net_sum: float = 0.0


class RepeatedOutput(msgspec.Struct, frozen=True):
    """Rows of one output that were run again, and their divergences from what the primary had answered."""

    output: str
    rows: int
    own_divergence_sum: float
    shadow_divergence_sum: float


class RepeatTally(msgspec.Struct, frozen=True):
    """Requests that were run again, alone, on the primary's own version and on the shadow."""

    requests: int = 0
    # Requests in which the primary's own version disagrees with the primary anywhere.
    own_disagreeing: int = 0
    # Sums over the requests of the share of rows that agree with what the primary had answered.
    own_agreement_sum: float = 0.0
    shadow_agreement_sum: float = 0.0
    # Of the shadow's disagreement beyond the own one, a request each, over SYM64; empty without a request.
    excess: tuple[float, ...] = ()
    outputs: tuple[RepeatedOutput, ...] = ()
    own_times: SketchCounts = SketchCounts((), 0.0)
    shadow_times: SketchCounts = SketchCounts((), 0.0)


class MetricCounts(msgspec.Struct, frozen=True):
    """Observations of one metric, binned over the knots of its kind."""

    name: str
    # With whatever is missing at its worst for the shadow, and at its best.
    up: tuple[float, ...]
    lo: tuple[float, ...]


class Serial(msgspec.Struct, frozen=True):
    """Sums over the blocks of a metric, in their order."""

    blocks: int = 0
    total: float = 0.0
    squares: float = 0.0
    # Neighbouring blocks, and the sum of their products.
    pairs: int = 0
    products: float = 0.0


class Observed(msgspec.Struct, frozen=True):
    """What a verdict may rest on; counts with the same basis add up."""

    # Names comparators, tolerances and what an observation is; empty where nothing was observed.
    basis: str = ""
    # Requests of one observation.
    block: int = 1
    # Settled requests that are accounted for; the others are in a block that is not finished.
    requests: int = 0
    # Of these: nothing in them was new.
    repeated: int = 0
    # Rows of which the inputs are known, and those of them that were met before.
    rows: int = 0
    repeated_rows: int = 0
    # Of the disagreement.
    serial: Serial = Serial()
    metrics: tuple[MetricCounts, ...] = ()


class StratumTally(msgspec.Struct, frozen=True):
    """What was found of the requests of one pair that were selected from one share."""

    # In (0, 1].
    sample: float
    # Requests that reached the worker and have an outcome, and of these those that were compared.
    received: int
    compared: int
    # Over the compared ones, as of PairTally.
    agreement_sum: float
    disagreeing: int


class PairTally(msgspec.Struct, frozen=True):
    """What one worker found between one primary and its shadow."""

    model: str
    primary: int
    shadow: int
    # Requests by outcome.
    compared: int
    shadow_error: int
    timeout: int
    dropped: int
    not_comparable: int
    # Sum over compared requests of the share of rows that agree, and how many requests disagree anywhere.
    agreement_sum: float
    disagreeing: int
    outputs: tuple[OutputTally, ...]
    # Seconds of run per request: the shadow's share of its coalesced batch, and the primary's.
    shadow_runs: HistogramCounts
    primary_runs: HistogramCounts
    observed: Observed = Observed()
    # The same, finer.
    shadow_times: SketchCounts = SketchCounts((), 0.0)
    primary_times: SketchCounts = SketchCounts((), 0.0)
    repeats: RepeatTally = RepeatTally()
    strata: tuple[StratumTally, ...] = ()


class KeptTensor(msgspec.Struct, frozen=True):
    """One tensor of a request that is kept."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    # As raw contents travel; None where they are withheld.
    raw: bytes | None


class KeptRequest(msgspec.Struct, frozen=True):
    """A request on which the shadow disagrees."""

    primary: int
    # By which some are chosen among many, the least first; it depends on nothing but the request's span.
    priority: int
    # 16 bytes.
    trace_id: bytes
    # Nanoseconds since the epoch: when the primary had answered.
    time_ns: int
    # (output, divergence) of the request's worst row.
    divergences: tuple[tuple[str, float], ...]
    # Rows of the request; the tensors hold such as disagree.
    rows: int
    inputs: tuple[KeptTensor, ...]
    primary_outputs: tuple[KeptTensor, ...]
    shadow_outputs: tuple[KeptTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of all contents."""
        return sum(len(one.raw or b"") for one in (*self.inputs, *self.primary_outputs, *self.shadow_outputs))


class SegmentFound(msgspec.Struct, frozen=True):
    """A slice of the input space that holds more than its share of the disagreement."""

    conditions: tuple[str, ...]
    # Shares of all rows, and of those that disagree.
    rows: float
    disagreements: float
    # Disagreeing rows among those inside, and among those outside.
    rate: float
    rate_outside: float
    # Probability that chance alone would have it stand out as much.
    p: float
    # Of rows in it that disagree, 16 bytes each.
    trace_ids: tuple[bytes, ...]


class SegmentSearch(msgspec.Struct, frozen=True):
    """One search for segments; the newest one says most."""

    primary: int
    # Rows that were looked at, and those of them that disagree.
    rows: int
    disagreeing: int
    found: tuple[SegmentFound, ...]


class SourceCount(msgspec.Struct, frozen=True):
    """What a worker has received of one feed."""

    model: str
    primary: int
    shadow: int
    source: str
    received: int


class WorkerReport(_Message, frozen=True, tag="worker_report"):
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


class CountsWanted(msgspec.Struct, frozen=True, tag=True):
    """What all frontends have counted until now."""


class Counts(msgspec.Struct, frozen=True, tag=True):
    """The answer to CountsWanted."""

    inferences: tuple[InferenceCount, ...]


class IndexWanted(msgspec.Struct, frozen=True, tag=True):
    """Every version in the repository."""


class ListedVersion(msgspec.Struct, frozen=True):
    """A version in the repository, with its role and how it stands where that role needs it."""

    model: str
    version: int
    # "primary", "previous", "shadow" or empty.
    role: str
    state: str
    reason: str


class Index(msgspec.Struct, frozen=True, tag=True):
    """The answer to IndexWanted."""

    versions: tuple[ListedVersion, ...]


class LoadWanted(msgspec.Struct, frozen=True, tag=True):
    """That a model answers, with what is in the repository now."""

    model: str
    # Who asks, for the audit.
    actor: str


class UnloadWanted(msgspec.Struct, frozen=True, tag=True):
    """That a model answers nothing until it is loaded again."""

    model: str
    actor: str


class RegionsWanted(msgspec.Struct, frozen=True, tag=True):
    """The region of that name; all of them without one."""

    name: str


class Shared(msgspec.Struct, frozen=True, tag=True):
    """The answer to RegionsWanted."""

    regions: tuple[RegionRef, ...]


class RegisterWanted(msgspec.Struct, frozen=True, tag=True):
    """That every frontend knows a region."""

    region: RegionRef


class UnregisterWanted(msgspec.Struct, frozen=True, tag=True):
    """That no frontend knows the region of that name; without one, any."""

    name: str


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer to a wish that came true."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    """The answer of whoever cannot give another."""

    # The name of a grpc.StatusCode.
    status: str
    text: str


Wanted = CountsWanted | IndexWanted | LoadWanted | UnloadWanted | RegionsWanted | RegisterWanted | UnregisterWanted
Given = Counts | Index | Shared | Done | Failure


class Question(_Message, frozen=True, tag="question"):
    """What a frontend needs of control to answer a client."""

    # Of one life of a frontend.
    number: int
    wanted: Wanted


class Answer(_Message, frozen=True, tag="answer"):
    """The answer to the question of that number."""

    number: int
    given: Given


class Drained(_Message, frozen=True, tag="drained"):
    """The last message of a child: its reports are complete."""


ToChild = FrontendPlan | WorkerPlan | Drain | Regions | ReportNow | Answer
FromChild = FrontendAck | WorkerAck | FrontendReport | WorkerReport | Question | Drained
