"""Differences: what workers found about the requests on which shadows disagree; in memory only, within bounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from gnomon_protos import control_pb2, manifest_pb2
from gnomon_server.control.comparison import Pair
from gnomon_server.control.times import rfc3339
from gnomon_server.settings import CompareSettings, Settings
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.tallies import KeptRequest, KeptTensor, SegmentFound, SegmentSearch

Kind = TypeVar("Kind")

# Pairs that are remembered; the one that was heard of last stands last.
PAIRS: Final = 64


class Differences:
    """Belongs to control's event loop."""

    def __init__(self, settings: Settings, clock: Callable[[], int] = time.time_ns) -> None:
        self._settings = settings
        self._clock = clock
        self._kept: dict[Pair, list[KeptRequest]] = {}
        self._searches: dict[Pair, SegmentSearch] = {}

    def worker_reported(self, report: WorkerReport) -> None:
        """Takes what the worker of a shadow found since its last report."""
        if not report.pairs:
            return
        model, shadow = report.pairs[0].model, report.pairs[0].shadow
        for search in report.searches:
            _renew(self._searches, Pair(model, search.primary, shadow), search)
        for primary in {request.primary for request in report.kept}:
            pair = Pair(model, primary, shadow)
            fresh = [request for request in report.kept if request.primary == primary]
            _renew(self._kept, pair, self._bounded(pair, [*self._kept.get(pair, ()), *fresh]))

    def segments(self, pair: Pair) -> control_pb2.SegmentSearch | None:
        """Returns where a pair disagrees; None before anyone has searched."""
        search = self._searches.get(pair)
        if search is None:
            return None
        return control_pb2.SegmentSearch(
            rows=search.rows, disagreeing=search.disagreeing, segments=map(_segment, search.found)
        )

    def requests(self, pair: Pair, limit: int = 0) -> list[control_pb2.DivergentRequest]:
        """Returns requests on which a pair disagrees, newest first; 0: all that are kept."""
        kept = self._kept[pair] = self._bounded(pair, self._kept.get(pair, []))
        newest = sorted(kept, key=lambda request: request.time_ns, reverse=True)
        return [_request(pair, request) for request in newest[: limit or None]]

    def _bounded(self, pair: Pair, requests: list[KeptRequest]) -> list[KeptRequest]:
        """Returns the requests of the lowest priorities that are young enough and small enough together."""
        settings: CompareSettings = self._settings.model(pair.model).compare
        oldest = self._clock() - settings.keep_seconds * 1e9
        kept: list[KeptRequest] = []
        room = settings.keep_bytes
        for request in sorted(requests, key=lambda request: request.priority):
            if request.time_ns >= oldest and len(kept) < settings.keep and request.size <= room:
                kept.append(request)
                room -= request.size
        return kept


def _renew(known: dict[Pair, Kind], pair: Pair, value: Kind) -> None:
    known.pop(pair, None)
    known[pair] = value
    if len(known) > PAIRS:
        del known[next(iter(known))]


def _segment(found: SegmentFound) -> control_pb2.Segment:
    return control_pb2.Segment(
        conditions=found.conditions,
        rows=found.rows,
        disagreements=found.disagreements,
        rate=found.rate,
        rate_outside=found.rate_outside,
        p=found.p,
        trace_ids=[trace_id.hex() for trace_id in found.trace_ids],
    )


def _request(pair: Pair, request: KeptRequest) -> control_pb2.DivergentRequest:
    moment = datetime.fromtimestamp(request.time_ns / 1e9, UTC)
    return control_pb2.DivergentRequest(
        time=rfc3339(moment, "milliseconds"),
        trace_id=request.trace_id.hex(),
        primary=request.primary,
        shadow=pair.shadow,
        divergences=dict(request.divergences),
        rows=request.rows,
        inputs=map(_tensor, request.inputs),
        primary_outputs=map(_tensor, request.primary_outputs),
        shadow_outputs=map(_tensor, request.shadow_outputs),
    )


def _tensor(kept: KeptTensor) -> control_pb2.KeptTensor:
    tensor = manifest_pb2.Tensor(name=kept.name, datatype=kept.datatype, shape=kept.shape, raw=kept.raw or b"")
    return control_pb2.KeptTensor(tensor=tensor, withheld=kept.raw is None)
