"""Snapshots: what control knows at one moment, as the telemetry room takes it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gnomon_server.control.comparison import Comparison
from gnomon_server.control.deliveries import Deliveries
from gnomon_server.control.drift.findings import WindowFinding
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.operations import Operations
from gnomon_server.telemetry import DriftState, PairCounts, Snapshot
from gnomon_server.telemetry.conventions import LABEL_OUTCOMES


def snapshot(
    since_ns: int,
    fleet: Fleet,
    ledger: Ledger,
    operations: Operations,
    deliveries: Deliveries,
    windows: Sequence[WindowFinding] = (),
) -> Snapshot:
    """Returns the counts and states of now.

    `since_ns` is when the server began, in nanoseconds since the epoch; `windows` are the last ones that were judged.
    """
    counts = fleet.counts
    routes = operations.routes.values()
    shadows = [(route.model, version) for route in routes for version in route.shadows]
    return Snapshot(
        since_ns=since_ns,
        time_ns=time.time_ns(),
        calls=counts.calls,
        inferences=counts.inferences,
        pairs=tuple(_pair(row) for row in ledger.comparisons()),
        queue_depths=fleet.queue_depths,
        shares={
            (route.model, version): sample * fleet.guarding.factor(route.model)
            for route in routes
            for version, sample in route.shadows.items()
        },
        verdicts={key: operations.judging.verdict(*key).decision for key in shadows},
        states={
            (route.model, version): fleet.state(route.model, version).state
            for route in routes
            for version in operations.versions(route.model)
        },
        switches=operations.switches,
        canaries={(route.model, route.canary): route.weight for route in routes if route.canary},
        steps={(route.model, route.canary): route.delivery.step + 1 for route in routes if route.delivery},
        deliveries=deliveries.states,
        in_flight=counts.in_flight,
        sequences_evicted=counts.sequences_evicted,
        drifts=tuple(
            DriftState(window.model, window.version, one.name, one.drift.distance, bool(one.drift.alarms))
            for window in windows
            for one in window.features
        ),
    )


def _pair(row: Comparison) -> PairCounts:
    outcomes, labels = row.outcomes, row.labels
    settled = {
        "compared": outcomes.compared,
        "shadow_error": outcomes.shadow_error,
        "primary_error": outcomes.primary_error,
        "timeout": outcomes.timeout,
        "dropped": outcomes.dropped,
        "not_comparable": outcomes.not_comparable,
    }
    return PairCounts(
        model=row.pair.model,
        shadow=row.pair.shadow,
        outcomes=settled,
        disagreeing=row.disagreeing,
        outputs=row.outputs,
        shadow_runs=row.shadow_runs,
        since_ns=int(row.since.timestamp() * 1e9) if row.since else 0,
        labels={outcome: getattr(labels, outcome) for outcome in LABEL_OUTCOMES} if labels.received else {},
    )
