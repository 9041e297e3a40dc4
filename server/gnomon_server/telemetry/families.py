"""Metric families: the snapshot as named series, for every way of showing them.

To add a metric: a name in `conventions`, a function here that returns its Family, and a line in `families`. Label
values come from loaded models and registered methods only, never from what a client sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gnomon_server.telemetry import conventions as names
from gnomon_server.telemetry.snapshot import PairCounts, Snapshot
from gnomon_server.wire.counts import HistogramCounts, InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, CALL_BOUNDS, DIVERGENCE_BOUNDS, DURATION_BOUNDS, merge

Kind = Literal["counter", "gauge", "histogram"]
Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Point:
    """One series of a family."""

    attributes: Attributes
    value: int | float | HistogramCounts
    # Nanoseconds since the epoch: when the counting began.
    since_ns: int


@dataclass(frozen=True)
class Family:
    """All series of one metric."""

    name: str
    # UCUM: "s" for seconds, "1" for a share, "{request}" for a count of requests.
    unit: str
    kind: Kind
    description: str
    points: tuple[Point, ...]
    # Upper bounds of a histogram's buckets, without the last, infinite one.
    bounds: Sequence[float] = ()
    # The name is one of Prometheus already.
    verbatim: bool = False


def families(snapshot: Snapshot) -> list[Family]:
    """Returns gnomon's own metrics; a family without series is left out."""
    made = [
        _call_durations(snapshot),
        _active_requests(snapshot),
        *_inferences(snapshot),
        _mirror_requests(snapshot),
        _sequences_evicted(snapshot),
        _shares(snapshot),
        _divergences(snapshot),
        _disagreements(snapshot),
        _shadow_durations(snapshot),
        _queue_depths(snapshot),
        _feedback_labels(snapshot),
        _verdicts(snapshot),
        *_drifts(snapshot),
        _model_states(snapshot),
        _switches(snapshot),
        _canary_shares(snapshot),
        _delivery_steps(snapshot),
        _delivery_states(snapshot),
    ]
    return [family for family in made if family.points]


def added(points: Iterable[Point], bounds: Sequence[float] = ()) -> tuple[Point, ...]:
    """Returns the points in the order of their attributes, those with equal attributes added together."""
    sums: dict[Attributes, Point] = {}
    for point in points:
        before = sums.get(point.attributes)
        sums[point.attributes] = point if before is None else _sum(before, point, bounds)
    return tuple(sums[attributes] for attributes in sorted(sums))


def _sum(a: Point, b: Point, bounds: Sequence[float]) -> Point:
    since = min(a.since_ns, b.since_ns)
    if isinstance(a.value, HistogramCounts) and isinstance(b.value, HistogramCounts):
        return replace(a, value=merge((a.value, b.value), bounds), since_ns=since)
    if isinstance(a.value, int) and isinstance(b.value, int):
        return replace(a, value=a.value + b.value, since_ns=since)
    raise TypeError(f"points of one family: expected one kind, received {a.value!r} and {b.value!r}")


def _version(model: str, version: int, *more: tuple[str, str]) -> Attributes:
    return ((names.MODEL_NAME, model), (names.MODEL_VERSION, str(version)), *more)


def _error(kind: str) -> Attributes:
    return ((names.ERROR_TYPE, kind),) if kind else ()


def _call_durations(snapshot: Snapshot) -> Family:
    def attributes(method: str, status: str) -> Attributes:
        error = _error(status if status in names.SERVER_ERRORS else "")
        call = ((names.RPC_METHOD, method), (names.RPC_RESPONSE_STATUS_CODE, status))
        return ((names.RPC_SYSTEM_NAME, names.GRPC), *call, *error)

    points = (Point(attributes(c.method, c.status), c.durations, snapshot.since_ns) for c in snapshot.calls)
    text = "Duration of calls as the server saw them."
    return Family(names.CALL_DURATION, "s", "histogram", text, added(points, CALL_BOUNDS), CALL_BOUNDS)


def _active_requests(snapshot: Snapshot) -> Family:
    text = "Calls that have no answer yet."
    points = (Point((), snapshot.in_flight, snapshot.since_ns),)
    return Family(names.ACTIVE_REQUESTS, "{request}", "gauge", text, points)


def _inferences(snapshot: Snapshot) -> tuple[Family, ...]:
    since = snapshot.since_ns

    def attributes(count: InferenceCount) -> Attributes:
        return _version(count.model, count.version, (names.ROLE, count.role), *_error(count.error))

    requests = added(Point(attributes(c), sum(c.durations.counts), since) for c in snapshot.inferences)
    durations = added((Point(attributes(c), c.durations, since) for c in snapshot.inferences), DURATION_BOUNDS)
    batches = added((Point(attributes(c), c.batches, since) for c in snapshot.inferences), BATCH_BOUNDS)
    whole = "Time from receipt to answer of requests that reached a version."
    return (
        Family(names.INFERENCE_REQUESTS, "{request}", "counter", "Requests that reached a version.", requests),
        Family(names.INFERENCE_DURATION, "s", "histogram", whole, durations, DURATION_BOUNDS),
        Family(names.INFERENCE_BATCH_SIZE, "{row}", "histogram", "Rows of one model run.", batches, BATCH_BOUNDS),
    )


def _mirror_requests(snapshot: Snapshot) -> Family:
    # Outcomes that have not occurred are shown as 0, so that a rate exists before the first failure.
    points = (
        Point(_shadow(pair, (names.OUTCOME, outcome)), pair.outcomes.get(outcome, 0), pair.since_ns)
        for pair in snapshot.pairs
        for outcome in names.OUTCOMES
    )
    text = "Requests selected for a shadow, by what became of them."
    return Family(names.MIRROR_REQUESTS, "{request}", "counter", text, added(points))


def _sequences_evicted(snapshot: Snapshot) -> Family:
    text = "Sequences that were forgotten for want of room, so that a shadow may see a part of them."
    points = (Point((), snapshot.sequences_evicted, snapshot.since_ns),)
    return Family(names.MIRROR_SEQUENCES_EVICTED, "{sequence}", "counter", text, points)


def _divergences(snapshot: Snapshot) -> Family:
    points = (
        Point(_shadow(pair, (names.OUTPUT, output.output)), output.histogram, pair.since_ns)
        for pair in snapshot.pairs
        for output in pair.outputs
    )
    text = "Divergence of compared rows: 0 where a shadow equals its primary, 1 where nothing agrees."
    return Family(names.SHADOW_DIVERGENCE, "1", "histogram", text, added(points, DIVERGENCE_BOUNDS), DIVERGENCE_BOUNDS)


def _disagreements(snapshot: Snapshot) -> Family:
    points = (Point(_shadow(pair), pair.disagreeing, pair.since_ns) for pair in snapshot.pairs)
    text = "Compared requests in which at least one row disagrees."
    return Family(names.SHADOW_DISAGREEMENTS, "{request}", "counter", text, added(points))


def _shadow_durations(snapshot: Snapshot) -> Family:
    points = (
        Point(_shadow(pair, (names.ROLE, names.SHADOW)), pair.shadow_runs, pair.since_ns) for pair in snapshot.pairs
    )
    text = "Model run of a mirrored request: its share of the coalesced batch."
    return Family(names.SHADOW_DURATION, "s", "histogram", text, added(points, DURATION_BOUNDS), DURATION_BOUNDS)


def _feedback_labels(snapshot: Snapshot) -> Family:
    points = (
        Point(_shadow(pair, (names.OUTCOME, outcome)), pair.labels.get(outcome, 0), pair.since_ns)
        for pair in snapshot.pairs
        if pair.labels
        for outcome in names.LABEL_OUTCOMES
    )
    text = "Labels that came after the answers, by what became of them."
    return Family(names.FEEDBACK_LABELS, "{label}", "counter", text, added(points))


def _shadow(pair: PairCounts, *more: tuple[str, str]) -> Attributes:
    return _version(pair.model, pair.shadow, *more)


def _shares(snapshot: Snapshot) -> Family:
    text = "Share of the requests that is mirrored to a shadow now; the guard halves it."
    return Family(names.MIRROR_SHARE, "1", "gauge", text, _gauges(snapshot.shares, snapshot.since_ns))


def _queue_depths(snapshot: Snapshot) -> Family:
    text = "Mirrored requests that wait for their shadow."
    points = _gauges(snapshot.queue_depths, snapshot.since_ns)
    return Family(names.SHADOW_QUEUE_DEPTH, "{request}", "gauge", text, points)


def _canary_shares(snapshot: Snapshot) -> Family:
    text = "Share of the requests that a canary answers."
    return Family(names.CANARY_SHARE, "1", "gauge", text, _gauges(snapshot.canaries, snapshot.since_ns))


def _delivery_steps(snapshot: Snapshot) -> Family:
    text = "Step that the delivery of a version is at, from 1."
    return Family(names.DELIVERY_STEP, "{step}", "gauge", text, _gauges(snapshot.steps, snapshot.since_ns))


def _delivery_states(snapshot: Snapshot) -> Family:
    text = "1 for the state of the delivery of a version, 0 for the others."
    points = _one_hot(snapshot.deliveries, names.DELIVERY_STATES, snapshot.since_ns)
    return Family(names.DELIVERY_STATE, "{version}", "gauge", text, points)


def _verdicts(snapshot: Snapshot) -> Family:
    text = "1 for the state of the verdict on a shadow, 0 for the others."
    points = _one_hot(snapshot.verdicts, names.VERDICTS, snapshot.since_ns)
    return Family(names.VERDICT, "{version}", "gauge", text, points)


def _drifts(snapshot: Snapshot) -> tuple[Family, ...]:
    named = [(_version(one.model, one.version, (names.FEATURE, one.feature)), one) for one in snapshot.drifts]
    scores = tuple(Point(attributes, one.distance, snapshot.since_ns) for attributes, one in named)
    alarms = tuple(Point(attributes, int(one.alarms), snapshot.since_ns) for attributes, one in named)
    score = (
        "Distance of a feature or an output from its reference, in the last window: 0 is equal, 1 has nothing alike."
    )
    alarm = "1 where a feature or an output has drifted beyond what its reference shows, in the last window; else 0."
    return (
        Family(names.DRIFT_SCORE, "1", "gauge", score, scores),
        Family(names.DRIFT_ALARM, "1", "gauge", alarm, alarms),
    )


def _model_states(snapshot: Snapshot) -> Family:
    text = "1 for the state of a version, 0 for the others."
    points = _one_hot(snapshot.states, names.VERSION_STATES, snapshot.since_ns)
    return Family(names.MODEL_STATE, "{version}", "gauge", text, points)


def _switches(snapshot: Snapshot) -> Family:
    text = "Changes of a model's primary."
    points = tuple(
        Point(((names.MODEL_NAME, model), (names.SWITCH, kind)), count, snapshot.since_ns)
        for (model, kind), count in sorted(snapshot.switches.items())
    )
    return Family(names.ROUTE_SWITCHES, "{version}", "counter", text, points)


def _gauges(current: Mapping[tuple[str, int], int | float], since_ns: int) -> tuple[Point, ...]:
    return tuple(Point(_version(*key), value, since_ns) for key, value in sorted(current.items()))


def _one_hot(current: Mapping[tuple[str, int], str], states: Sequence[str], since_ns: int) -> tuple[Point, ...]:
    return tuple(
        Point(_version(*key, (names.STATE, state)), int(state == now), since_ns)
        for key, now in sorted(current.items())
        for state in states
    )
