"""Reports without a server: what a tally of requests from a file says about a version, as control would say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gnomon_server.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gnomon_protos import control_pb2
    from gnomon_server.models.servable import Servable
    from gnomon_server.settings import Policy, Settings
    from gnomon_server.shadow.feedback import Feedback
    from gnomon_server.shadow.replay import Replay
    from gnomon_server.shadow.trial import Shadow
    from gnomon_server.wire.labels import PairLabels
    from gnomon_server.wire.messages import VersionState
    from gnomon_server.wire.plans import VersionRef
    from gnomon_server.wire.tallies import PairTally

SOURCE: Final = "file"


def load(settings: Settings, model: str, version: int) -> Servable:
    """Returns a version of the repository, loaded; raises NotFound or LoadError."""
    from gnomon_server.models import servable

    refs = versions(settings, model)
    if version not in refs:
        where = f"model '{model}': version '{version}' not found in {settings.repository}"
        raise NotFound(f"{where}: expected one of {sorted(refs)}")
    return servable.load(refs[version], settings.model(model))


def versions(settings: Settings, model: str) -> dict[int, VersionRef]:
    """Returns what the repository has of a model, by version."""
    from gnomon_server.models.sources import source

    return {ref.version: ref for ref in source(settings.repository).versions() if ref.model == model}


def policy_of(settings: Settings, model: str, **changes: object) -> Policy:
    """Returns the model's policy for requests from a file, which are all there: time plays no part."""
    import msgspec

    return msgspec.structs.replace(settings.policy_of(model), min_duration=0.0, **changes)


def recorded_model(paths: Sequence[Path]) -> str:
    """Returns the model of which a recording is, by the segments of it; raises InvalidRequest if it is of several."""
    from gnomon_server.shadow.recording import Segment

    models = set()
    for path in paths:
        with Segment(path) as segment:
            if segment.head is not None:
                models.add(segment.head.model)
    if len(models) != 1:
        raise InvalidRequest(f"{paths[0]}: expected a recording of one model, found {sorted(models) or 'none'}")
    return str(models.pop())


def replay(onto: Replay, paths: Sequence[Path]) -> int:
    """Replays the segments of a recording; returns the bytes at their ends that are no whole frame.

    Raises InvalidRequest if there is no run in them.
    """
    from gnomon_server.shadow.recording import Segment

    cut = 0
    for path in paths:
        with Segment(path) as segment:
            if segment.head is not None:
                for one in segment:
                    onto.take(segment.head, one)
            for missing in segment.missing:
                onto.missed(missing)
            cut += segment.cut
    if not onto.runs:
        raise InvalidRequest(f"{paths[0]}: expected a recording, found no run that is whole")
    return cut


def feedback(settings: Settings, shadow: Shadow, policy: Policy) -> Feedback:
    """Returns what joins labels to all requests of a recording; raises InvalidRequest or LoadError."""
    import sys

    import msgspec

    from gnomon_server.shadow.choice import choose
    from gnomon_server.shadow.feedback import Feedback, Judging
    from gnomon_server.shadow.truth import truth
    from gnomon_server.wire.plans import observing

    if not policy.labels:
        setting = f"[models.{shadow.model}.policy] labels"
        raise InvalidRequest(f"{setting}: expected the seconds in which labels come, received 0: set it with --config")
    of = settings.model(shadow.model).feedback
    known = truth(shadow.model, shadow.signature, choose(shadow.signature, shadow.comparisons), of)
    everything = msgspec.structs.replace(of, keep=sys.maxsize, keep_bytes=sys.maxsize, keep_seconds=0.0)
    return Feedback(known, everything, Judging(policy.labels, observing(policy)), wait=0.0, live=False)


def replayed(of: Replay, shadow: Shadow, policy: Policy) -> list[control_pb2.Report]:
    """Returns the report on each primary whose requests were replayed, oldest version first."""
    from gnomon_server.models.lifecycle import READY, UNLOADED
    from gnomon_server.wire.messages import VersionState

    model = shadow.model
    states = {version: VersionState(model, version, UNLOADED) for version in of.received}
    states[shadow.version] = VersionState(model, shadow.version, READY, digest=shadow.digest)
    since = datetime.fromtimestamp(of.first_ns / 1e9, UTC)
    known = of.feedback.snapshot(model, shadow.version) if of.feedback is not None else ()
    return reports(
        *(model, states, shadow.version, of.snapshot(), of.received, since, policy),
        primary_errors=of.primary_errors,
        labelled=known,
        dropped=of.dropped,
    )


def reports(
    model: str,
    states: Mapping[int, VersionState],
    shadow: int,
    tallies: Sequence[PairTally],
    received: Mapping[int, int],
    since: datetime,
    policy: Policy,
    primary_errors: Mapping[int, int] = MappingProxyType({}),
    labelled: Sequence[PairLabels] = (),
    dropped: Mapping[int, int] = MappingProxyType({}),
) -> list[control_pb2.Report]:
    """Returns the report on each primary, oldest version first.

    By version: `states`, the requests that the shadow `received`, those that the primary failed on, and those that were
    `dropped` on their way. With what became known later in `labelled`, that is judged.
    """
    from gnomon_server.control import labels
    from gnomon_server.control.comparison import Pair
    from gnomon_server.control.ledger import Ledger
    from gnomon_server.control.reports import report
    from gnomon_server.control.routes import Route
    from gnomon_server.control.times import utc_now
    from gnomon_server.control.verdict import verdict
    from gnomon_server.wire.counts import FeedCount, SourceCount
    from gnomon_server.wire.messages import WorkerReport

    ledger = Ledger(lambda: since)
    counts = tuple(SourceCount(model, primary, shadow, SOURCE, number) for primary, number in received.items())
    for primary in primary_errors.keys() | dropped.keys():
        errors, lost = primary_errors.get(primary, 0), dropped.get(primary, 0)
        selected = received.get(primary, 0) + errors + lost
        ledger.frontend_reported((FeedCount(model, primary, shadow, SOURCE, SOURCE, selected, lost, errors),))
    ledger.worker_reported(WorkerReport(SOURCE, tuple(tallies), counts, (), 0, (), 0, labels=tuple(labelled)))
    found, now = [], utc_now()
    for tally in tallies:
        comparison = ledger.totals(Pair(model, tally.primary, shadow))
        evidence, known = comparison.evidence, labels.closed(comparison.labels)
        if labelled:
            evidence = labels.judged(evidence, known, policy, now)
        decided = verdict(evidence, policy, now)
        route = Route(model, primary=tally.primary, shadows={shadow: 1.0})
        found.append(report(comparison, route, policy, decided, (states[tally.primary], states[shadow])))
        if labelled and (told := labels.report(known, evidence, policy, now)) is not None:
            found[-1].labels.CopyFrom(told)
    return found
