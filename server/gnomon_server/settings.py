"""The server's settings, as frozen values."""

from __future__ import annotations

import hashlib
from math import isfinite
from typing import Annotated, Any, Final, Literal

import msgspec

from gnomon_server.conversion import converted, overlaid

Transport = Literal["http2", "grpcio"]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
ShareOrZero = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Part = Annotated[float, msgspec.Meta(ge=0, le=1)]
Flip = Annotated[str, msgspec.Meta(pattern="->")]
Whole = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0)]
Version = Annotated[str, msgspec.Meta(pattern="^[1-9][0-9]{0,17}$")]
Bytes = Annotated[int, msgspec.Meta(ge=1024)]


class SegmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A slice of the input space in which a shadow must agree as well."""

    # Comparisons of input columns, joined by "and": carrier = 'HA' and distance > 2300.
    where: str
    # Greatest mean share of a request's rows in it on which the versions may disagree.
    tolerance: Share
    # Requests with rows in it before a promotion.
    min_requests: CountOrNone = 0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a shadow may be promoted, and when it is rejected."""

    # Greatest mean share of a request's rows on which a shadow may disagree with its primary.
    tolerance: Share = 0.01
    # Greatest mean divergence by output, for outputs that are judged on their own as well.
    outputs: dict[str, Share] = {}
    # Greatest share of requests on which the shadow may fail beyond those on which the primary does; 0: not judged.
    errors: ShareOrZero = 0.0
    # Greatest share of rows that the shadow may have wrong beyond those that the primary has, where the truth is known:
    # it is judged in place of the disagreement.
    loss: Share = 0.005
    # Seconds after a request in which its label must have come: with it the loss is judged in place of the
    # disagreement, over requests that are older than that; 0: labels are shown, and not judged.
    labels: NotNegative = 0.0
    # Seconds of model run per request, and the greatest share of requests for which the shadow may take longer beyond
    # those for which the primary does; 0 seconds: not judged.
    latency: NotNegative = 0.0
    latency_excess: Share = 0.005
    # Greatest probability of a wrong promotion and of a wrong rejection, however often one looks.
    alpha_promote: Share = 0.05
    alpha_reject: Share = 0.05
    # Compared requests, and seconds since the first of them, before a promotion. Traffic changes over the day.
    min_requests: Count = 1000
    # How many of the audit's approvers must have approved a promotion.
    approvals: Annotated[int, msgspec.Meta(ge=0)] = 0
    min_duration: NotNegative = 24 * 3600.0
    # Consecutive requests whose mean is one observation; 1 only where requests are independent of each other.
    block: Count = 50
    # Whether an input that is sent again is left out.
    dedupe: bool = True
    # By name: where the shadow must hold, beside all the traffic.
    segments: dict[str, SegmentSettings] = {}

    @property
    def digest(self) -> str:
        """Names the policy by its contents."""
        return "sha256:" + hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class SessionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How onnxruntime runs a model."""

    # Threads inside one run. Small models lose by more than one: handing work over costs more than the work.
    threads: Count = 1
    # Whether idle threads go on looking for work for a while: faster by a little, at the price of a whole core each.
    spinning: bool = False
    # Whether memory of past runs is kept for the next ones.
    arena: bool = True
    optimization: Literal["none", "basic", "extended", "all"] = "all"
    # In the order of preference, by onnxruntime's names, with options for each.
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    provider_options: dict[str, dict[str, str]] = {}


class RecordingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What shadow workers write down of the requests that they are given."""

    enabled: bool = False
    # Bytes that the recording of one shadow takes at most; the oldest part goes first.
    max_bytes: Bytes = 1 << 30
    # Seconds after which nothing is kept.
    max_age: Positive = 7 * 86400.0


class OutputSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one output of a model's versions is compared, in place of what their manifests say."""

    comparator: str
    # The comparator's own numbers, such as rtol and atol.
    parameters: dict[str, float] = {}
    # Greatest divergence of a row that still counts as agreement; 1 leaves the output out of it.
    tolerance: Part = 0.0
    # For labels: the output that holds the class probabilities by which a tie is recognised.
    probabilities: str = ""
    # Below the first threshold the score means the first decision, from there on the second, and so on.
    thresholds: tuple[float, ...] = ()
    decisions: tuple[str, ...] = ()
    # The class whose probability is the score, or its column; empty: the last column.
    score: str = ""
    # What a changed decision costs, by "PRIMARY -> SHADOW".
    costs: dict[Flip, float] = {}


class UnitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The unit of a version's tensor: its number is the primary's times a factor, plus an offset."""

    # Kilometres in a mile, where the version takes kilometres and the primary miles.
    factor: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (self.factor and isfinite(self.factor) and isfinite(self.offset)):
            received = f"factor {self.factor:g}, offset {self.offset:g}"
            raise ValueError(f"expected a finite offset and a finite factor other than 0, received {received}")


class AlignSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a version whose tensors are others than its primary's is asked and compared, as a shadow."""

    # Its own names of inputs and outputs, by the primary's.
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    # The value of each input that only it has, by its own name.
    constants: dict[str, bool | int | float | str] = {}
    # The primary's order of classes, by the primary's name of the output.
    classes: dict[str, tuple[str, ...]] = {}
    # By the primary's name of the input or output; floats only.
    units: dict[str, UnitSettings] = {}


class CompareSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What shadow workers look at beside comparing every request."""

    # Share of the mirrored requests that run again, alone, on the shadow and on the primary's own version.
    repeat: Part = 0.01
    # Divergent and failed requests that are traced a second, on the average, beside those that are sampled.
    traces: NotNegative = 20.0
    # Divergent requests that are kept to be looked at, in memory only, and for how many bytes and seconds; 0: none.
    keep: Whole = 100
    keep_bytes: Bytes = 4 << 20
    keep_seconds: Positive = 86400.0
    # Inputs and outputs of which no value is kept, nor any segment found, by name.
    redact: tuple[str, ...] = ()
    # Rows among which slices of the input space are sought that hold the disagreement; 0: none are sought.
    segment_rows: Whole = 20_000
    # By version.
    align: dict[str, AlignSettings] = {}


class FeedbackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is told of a model's requests once the truth is known."""

    # Requests with an id of which each shadow worker remembers what both versions decided; 0: labels are refused.
    keep: Whole = 50_000
    # What they may take in all, and for how many seconds they are remembered; 0: for as long as there is room.
    keep_bytes: Bytes = 64 << 20
    keep_seconds: NotNegative = 0.0
    # The output that labels are about; empty: the only one of labels, else of probabilities, else of numbers.
    output: str = ""
    # What a number loses: its distance from the truth, or the square of it.
    loss: Literal["absolute", "squared"] = "absolute"
    # The distance beyond which the loss of a number grows no more; required for numbers.
    scale: NotNegative = 0.0
    # Requests without a label in time: at their worst for the shadow and at their best, or left out, which is right
    # only where labels are missing at random.
    unlabelled: Literal["worst", "ignored"] = "worst"


class CanarySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests a model's canary answers, and when it is taken back."""

    # The metadata by which a request keeps its side, such as "x-user-id"; empty, or in a request that has none: its id,
    # or else its bytes.
    key: Annotated[str, msgspec.Meta(pattern="^([0-9a-z_.-]*(?<!-bin))$")] = ""
    # Whether the server takes back a canary that fails by the limits below, or whose verdict as a shadow is `reject`.
    rollback: bool = True
    # Greatest share of requests on which it may fail beyond those on which the primary does; 0: not judged.
    errors: ShareOrZero = 0.01
    # Seconds from receipt to answer, and the greatest share of requests for which it may take longer beyond those for
    # which the primary does; 0 seconds: not judged.
    latency: NotNegative = 0.0
    latency_excess: Share = 0.01
    # Greatest probability that a canary within the limits is taken back by them, for each share that it is given.
    alpha: Share = 0.01


class StepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a delivery."""

    # Share of the requests that the canary answers.
    weight: Annotated[float, msgspec.Meta(gt=0, le=1)]
    # What must have passed, and what the canary must have answered, before the next step.
    seconds: NotNegative = 600.0
    requests: Whole = 0


class DeliverySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a version becomes the primary step by step."""

    steps: tuple[StepSettings, ...] = ()
    # Whether it goes on by itself when a step is complete.
    automatic: bool = True
    # Seconds after the promotion in which the server rolls it back if the new primary strays from the old one, now its
    # shadow, or fails beside the old one's past, by the limits of its canary.
    watch: NotNegative = 3600.0
    # Seconds beyond those of a step after which a delivery that has not gone on is stuck.
    stuck: Positive = 3600.0


class DriftSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model's traffic is compared with the reference that its primary was converted with."""

    # Seconds of a window, of which the end begins a look; 0: none is counted.
    window: NotNegative = 86400.0
    # Drift of a feature's distribution that nobody minds, on the scale of the population stability index.
    tolerance: NotNegative = 0.05
    # False alarms that are expected in 30 days, of all features of a model together.
    false_alarms: Positive = 1.0
    # Share of the requests that is counted while the model has no shadow, by a worker in which its primary's version
    # runs once more; 0: none.
    unshadowed: Part = 0.0


class RemoteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that another server runs: any endpoint of the Open Inference Protocol v2 over gRPC."""

    # HOST:PORT.
    address: str
    # As the other server calls them; empty: the same model, its own choice of a version.
    model: str = ""
    version: str = ""
    # Sent with every call, beside the marker; $NAME stands for a variable of the environment.
    headers: dict[str, str] = {}
    # With TLS; PEM files of the authorities (empty: those of the system) and of this side.
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    # Most rows in one call, and calls at once; 0 rows: each request is sent as it came.
    rows: Annotated[int, msgspec.Meta(ge=0)] = 16
    concurrency: Count = 4
    # Calls in a row that do not reach it before it is left alone, and seconds until it is tried again.
    patience: Count = 5
    pause: Positive = 5.0


class LatestVersions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The versions with the highest numbers."""

    latest: Count


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one model."""

    # What it leaves out comes from the policy of all models.
    policy: dict[str, Any] = {}
    # Most rows of requests that are joined into one run.
    max_batch: Count = 64
    # Seconds that a request may wait for others to be joined with. Without it only what waits anyway is joined.
    max_queue_delay: NotNegative = 0.0
    # Most requests that wait for one version in one frontend.
    max_queue: Count = 1024
    # Most rows of one request; 0 for any.
    max_rows: CountOrNone = 0
    session: SessionSettings = SessionSettings()
    recording: RecordingSettings = RecordingSettings()
    # Which versions answer when they are named, beside those that answer anyway.
    versions: Literal["all"] | LatestVersions | tuple[Count, ...] = ()
    # By version: what is different from `mirror` for one shadow.
    shadows: dict[Version, dict[str, Any]] = {}
    # By version: shadows that run elsewhere.
    remotes: dict[Version, RemoteSettings] = {}
    # How outputs are compared, by name.
    outputs: dict[str, OutputSettings] = {}
    compare: CompareSettings = CompareSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    canary: CanarySettings = CanarySettings()
    delivery: DeliverySettings = DeliverySettings()
    drift: DriftSettings = DriftSettings()


MODEL_DEFAULTS: Final = ModelSettings()


class MirrorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the mirror."""

    # Bytes that a frontend keeps for one shadow that does not read; what comes after is dropped and counted.
    feed_bytes: Bytes = 16 << 20
    # Bytes that a shadow worker keeps waiting.
    queue_bytes: Bytes = 64 << 20
    # Seconds after the primary's answer by which the shadow must have answered.
    deadline: Positive = 10.0
    # Most rows in one coalesced batch.
    batch_rows: Count = 256
    # Bytes of private memory that a shadow worker may take before it is ended and started again; 0: any.
    worker_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    # Lives of a worker that may end within seconds, one after the other, before it is given up.
    lives: Count = 8
    # Seconds without a word from a worker after which it is killed and started again.
    silence: Annotated[float, msgspec.Meta(ge=2)] = 60.0


class GuardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits above which mirroring is thinned to relieve the primaries; 0 is none."""

    # Seconds within which a model answers 99 of 100 requests.
    latency: NotNegative = 0.0
    # Requests of a model in flight at once, on the average of a second.
    queue: Annotated[int, msgspec.Meta(ge=0)] = 512
    # Share of the time in which something waits for a processor, as Linux' pressure stall information says.
    pressure: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    # Seconds of calm after which a share that was halved doubles again.
    recovery: Positive = 5.0


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files of the gRPC port; without a certificate it speaks plain text."""

    certificate: str = ""
    key: str = ""
    # Authorities that sign clients' certificates: with it, a client must have one.
    client_ca: str = ""


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who signs the audit, and who may approve promotions; keys are ed25519 in PEM files."""

    # The server's private key; without one it is made in the state folder.
    signing_key: str = ""
    # Names of those who may approve, with the files of their public keys.
    approvers: dict[str, str] = {}


class AlertSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom to tell what happened, and what counts as news."""

    # Where alerts are posted to; empty: nowhere.
    webhook: str = ""
    # What is posted: gnomon's own JSON, or what Alertmanager takes (then the webhook is its address).
    format: Literal["json", "alertmanager"] = "json"
    # A file with a token that is sent as "Authorization: Bearer".
    token_file: str = ""
    # Share of the requests for a shadow that may be dropped, and the seconds over which they are counted.
    drops: Share = 0.01
    window: Positive = 60.0
    # Seconds after which a shadow that is not ready counts as dead.
    dead_after: Positive = 30.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of `gnomon serve`."""

    repository: str = "models"
    state: str = "state"
    # Where routes, tallies and audit are: empty for SQLite in the state folder, postgresql://... to share them.
    store: str = ""
    grpc: str = "0.0.0.0:8001"
    http: str = "127.0.0.1:8002"
    control: str = "127.0.0.1:8003"
    # What speaks gRPC: "http2" over ngh2, or "grpcio".
    transport: Transport = "http2"
    # Frontend processes that share the gRPC port.
    workers: Count = 1
    # Seconds between looks at the repository.
    poll: Positive = 1.0
    # Seconds that calls in flight and the mirror may take at shutdown.
    grace: Positive = 10.0
    max_message_bytes: Bytes = 64 << 20
    # Most inferences that one frontend has accepted and not answered.
    max_in_flight: Count = 10_000
    # Whether clients of the gRPC port may load and unload models (RepositoryModelLoad, RepositoryModelUnload).
    repository_control: bool = False
    # Whether clients of the gRPC port may have this server read and write POSIX shared memory by its name.
    shared_memory: bool = False
    policy: Policy = Policy()
    # By model; what a model leaves out comes from "*", if that is there.
    models: dict[str, dict[str, Any]] = {}
    mirror: MirrorSettings = MirrorSettings()
    guard: GuardSettings = GuardSettings()
    tls: TlsSettings = TlsSettings()
    audit: AuditSettings = AuditSettings()
    alerts: AlertSettings = AlertSettings()

    def model(self, name: str) -> ModelSettings:
        """Returns the settings of one model."""
        values = overlaid(self.models.get("*", {}), self.models.get(name, {}))
        return converted(values, ModelSettings, ("models", name))

    def mirror_of(self, name: str, version: int) -> MirrorSettings:
        """Returns the bounds of one shadow."""
        values = overlaid(msgspec.to_builtins(self.mirror), self.model(name).shadows.get(str(version), {}))
        return converted(values, MirrorSettings, ("models", name, "shadows", str(version)))

    def policy_of(self, name: str) -> Policy:
        """Returns the policy of one model."""
        values = overlaid(msgspec.to_builtins(self.policy), self.model(name).policy)
        return converted(values, Policy, ("models", name, "policy"))
