"""Reports without a server: what a tally of requests from a file says about a version, as control would say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gnomon_protos import control_pb2
    from gnomon_server.config import Policy, Settings
    from gnomon_server.models.servable import Servable
    from gnomon_server.wire.messages import PairTally, VersionRef, VersionState

SOURCE: Final = "file"


def load(settings: Settings, model: str, version: int) -> Servable:
    """Returns a version of the repository, loaded; raises NotFound or LoadError."""
    from gnomon_server.errors import NotFound
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


def reports(
    model: str,
    states: Mapping[int, VersionState],
    shadow: int,
    tallies: Sequence[PairTally],
    received: Mapping[int, int],
    since: datetime,
    policy: Policy,
    primary_errors: Mapping[int, int] = MappingProxyType({}),
) -> list[control_pb2.Report]:
    """Returns the report on each primary, oldest version first.

    By version: `states`, the requests that the shadow `received`, and those that the primary failed on.
    """
    from gnomon_server.control.comparison import Pair
    from gnomon_server.control.ledger import Ledger, utc_now
    from gnomon_server.control.reports import report
    from gnomon_server.control.routes import Route
    from gnomon_server.control.verdict import verdict
    from gnomon_server.wire.messages import FeedCount, SourceCount, WorkerReport

    ledger = Ledger(lambda: since)
    counts = tuple(SourceCount(model, primary, shadow, SOURCE, number) for primary, number in received.items())
    for primary, errors in primary_errors.items():
        selected = received.get(primary, 0) + errors
        ledger.frontend_reported((FeedCount(model, primary, shadow, SOURCE, SOURCE, selected, 0, errors),))
    ledger.worker_reported(WorkerReport(SOURCE, tuple(tallies), counts, (), 0, (), 0))
    found = []
    for tally in tallies:
        comparison = ledger.totals(Pair(model, tally.primary, shadow))
        decided = verdict(comparison.evidence, policy, utc_now())
        route = Route(model, primary=tally.primary, shadows={shadow: 1.0})
        found.append(report(comparison, route, policy, decided, (states[tally.primary], states[shadow])))
    return found
