"""The methods of gnomon.v1.Control over grpcio: looking at models and changing their routes."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import grpc
import grpc.aio

from gnomon_protos import control_pb2, control_pb2_grpc
from gnomon_protos.manifest_pb2 import Manifest
from gnomon_server.control.audit.promotion import report_of
from gnomon_server.control.audit.records import AuditRecord
from gnomon_server.control.desired import Change, Request
from gnomon_server.control.drift.lookout import Lookout
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.operations import Assignment, Operations
from gnomon_server.control.ports import free
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Store
from gnomon_server.errors import GnomonError, InvalidRequest, quoted
from gnomon_server.wire.labels import Label, Labelled

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Method = Callable[[Any, Any, Any], Awaitable[Answer]]
MAX_AUDIT = 1000
MOST_WORKERS = 256
# In one call.
MOST_LABELS = 10_000
# Seconds since the epoch of which the nanoseconds have 63 bits: in the year 2262.
LATEST = 2**63 / 1e9
# In which a new frontend has loaded every version that it is to hold.
START_SECONDS = 120.0
# Entries of the audit in one answer, unless a caller says otherwise.
EXPORTED = 500


def _mapped(method: Method[Answer]) -> Method[Answer]:
    """Ends a call with the status of the error that the method raises; an unknown one tells the client nothing."""

    @functools.wraps(method)
    async def mapped(self: Any, request: Any, context: Any) -> Answer:
        try:
            return await method(self, request, context)
        except GnomonError as error:
            await context.abort(grpc.StatusCode[error.status], str(error)[:1024])
        except Exception:
            log.exception("%s failed", method.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        raise AssertionError("abort raises")

    return mapped


class ControlService(control_pb2_grpc.ControlServicer):
    """Answers on control's event loop."""

    def __init__(self, operations: Operations, fleet: Fleet, store: Store, lookout: Lookout) -> None:
        self._operations = operations
        self._fleet = fleet
        self._store = store
        self._lookout = lookout

    @_mapped
    async def ListModels(  # noqa: N802 - the method's name in the proto
        self, request: control_pb2.ListModelsRequest, _: Any
    ) -> control_pb2.ListModelsResponse:
        """Returns every model with its versions, their roles and states."""
        if request.model:
            self._operations.route(request.model)
        return control_pb2.ListModelsResponse(
            models=self.statuses(request.model), store_trouble=self._operations.storage.trouble
        )

    @_mapped
    async def GetReport(self, request: control_pb2.GetReportRequest, _: Any) -> control_pb2.Report:  # noqa: N802
        """Returns how a shadow compares with its primary."""
        return self._operations.judging.report(request.model, request.shadow)

    @_mapped
    async def SetShadow(self, request: control_pb2.SetShadowRequest, _: Any) -> control_pb2.RouteChange:  # noqa: N802
        """Starts, changes or ends the mirroring of a model's requests to a version."""
        if request.off:
            return _change(await self._operations.unshadow(_request(request), request.version))
        return _change(await self._operations.shadow(_request(request), request.version, request.sample, request.force))

    @_mapped
    async def SetCanary(self, request: control_pb2.SetCanaryRequest, _: Any) -> control_pb2.RouteChange:  # noqa: N802
        """Starts, changes or ends the answering of a share of a model's requests by a version."""
        if request.off:
            return _change(await self._operations.undivert(_request(request), request.version))
        return _change(await self._operations.divert(_request(request), request.version, request.weight))

    @_mapped
    async def Deliver(self, request: control_pb2.DeliverRequest, _: Any) -> control_pb2.RouteChange:  # noqa: N802
        """Begins, moves on, pauses, resumes or aborts a delivery."""
        asked, begun = _request(request), request.action in ("", "begin")
        if begun != bool(request.version):
            raise InvalidRequest("deliver: expected a version to begin, and none for another action")
        if begun:
            return _change(await self._operations.deliver(asked, request.version))
        if request.action == "next":
            return _change(await self._operations.deliver_on(asked))
        if request.action in ("pause", "resume"):
            return _change(await self._operations.pause(asked, request.action == "pause"))
        if request.action == "abort":
            return _change(await self._operations.undivert(asked))
        known = "begin, next, pause, resume or abort"
        raise InvalidRequest(f"action: expected {known}, received {quoted(request.action)}")

    @_mapped
    async def Promote(self, request: control_pb2.PromoteRequest, _: Any) -> control_pb2.RouteChange:  # noqa: N802
        """Makes a version the primary."""
        return _change(await self._operations.promote(_request(request), request.version, request.force))

    @_mapped
    async def Rollback(self, request: control_pb2.RollbackRequest, _: Any) -> control_pb2.RouteChange:  # noqa: N802
        """Makes the previous primary the primary again."""
        return _change(await self._operations.rollback(_request(request)))

    @_mapped
    async def ApplyRoute(  # noqa: N802
        self, request: control_pb2.ApplyRouteRequest, _: Any
    ) -> control_pb2.RouteChange:
        """Makes a route be as a file says."""
        shadows = {shadow.version: shadow.sample for shadow in request.shadows}
        canary = request.canary
        wanted = Assignment(request.generation, request.primary, shadows, canary.version, canary.weight)
        return _change(await self._operations.apply(_request(request), wanted, request.force))

    @_mapped
    async def ListDivergent(  # noqa: N802
        self, request: control_pb2.ListDivergentRequest, _: Any
    ) -> control_pb2.ListDivergentResponse:
        """Returns requests on which a shadow disagrees."""
        if request.limit < 0:
            raise InvalidRequest(f"limit: expected >= 0, received {request.limit}")
        found = self._operations.judging.divergent(request.model, request.shadow, request.limit)
        return control_pb2.ListDivergentResponse(requests=found)

    @_mapped
    async def Feedback(  # noqa: N802
        self, request: control_pb2.FeedbackRequest, _: Any
    ) -> control_pb2.FeedbackResponse:
        """Takes what became known of requests."""
        if not 1 <= len(request.labels) <= MOST_LABELS:
            raise InvalidRequest(f"labels: expected 1 to {MOST_LABELS:,} in one call, received {len(request.labels):,}")
        given = [Label(one.id, tuple(one.labels), nanoseconds(one.time)) for one in request.labels]
        found = await self._operations.judging.label(request.model, request.shadow, given)
        return control_pb2.FeedbackResponse(shadows=[_joined(*one) for one in found.items()])

    @_mapped
    async def Scale(self, request: control_pb2.ScaleRequest, _: Any) -> control_pb2.ScaleResponse:  # noqa: N802
        """Changes the number of frontends."""
        if not 1 <= request.workers <= MOST_WORKERS:
            raise InvalidRequest(f"workers: expected 1 to {MOST_WORKERS}, received {request.workers}")
        return control_pb2.ScaleResponse(workers=await self._fleet.frontends.scale(request.workers, START_SECONDS))

    @_mapped
    async def ListAudit(  # noqa: N802
        self, request: control_pb2.ListAuditRequest, _: Any
    ) -> control_pb2.ListAuditResponse:
        """Returns what was changed, newest first."""
        if request.limit < 0:
            raise InvalidRequest(f"limit: expected >= 0, received {request.limit}")
        return control_pb2.ListAuditResponse(
            entries=await self.changes(request.model, min(request.limit or 100, MAX_AUDIT))
        )

    @_mapped
    async def ExportAudit(  # noqa: N802
        self, request: control_pb2.ExportAuditRequest, _: Any
    ) -> control_pb2.ExportAuditResponse:
        """Returns entries of the audit as they are kept."""
        if request.limit < 0 or request.after < 0:
            raise InvalidRequest(f"after, limit: expected >= 0, received {request.after}, {request.limit}")
        # Before the entries: none that it names may be missing among them.
        checkpoint = self._store.checkpoint()
        limit = min(request.limit or EXPORTED, MAX_AUDIT)
        entries = await asyncio.to_thread(self._store.entries, request.after, limit)
        return control_pb2.ExportAuditResponse(
            entries=[control_pb2.SealedEntry(**asdict(entry)) for entry in entries],
            checkpoint=checkpoint.text if checkpoint else "",
            public_key=self._store.signer.public.pem,
        )

    @_mapped
    async def Approve(self, request: control_pb2.ApproveRequest, _: Any) -> control_pb2.AuditEntry:  # noqa: N802
        """Takes the approval of a promotion."""
        return _entry(await self._operations.approve(request.model, request.version, request.envelope, request.reason))

    @_mapped
    async def GetDrift(self, request: control_pb2.GetDriftRequest, _: Any) -> control_pb2.DriftReport:  # noqa: N802
        """Returns how a model's traffic differs from the reference of its primary."""
        if request.limit < 0:
            raise InvalidRequest(f"limit: expected >= 0, received {request.limit}")
        self._operations.route(request.model)
        return await self._lookout.report(request.model, request.limit)

    @_mapped
    async def GetManifest(self, request: control_pb2.GetManifestRequest, _: Any) -> Manifest:  # noqa: N802
        """Returns what a version says of itself."""
        return self._operations.manifest(request.model, request.version)

    def statuses(self, model: str = "") -> list[control_pb2.ModelStatus]:
        """Returns the status of one model or, without a name, of all."""
        routes = sorted(self._operations.routes.items())
        return [self._status(route) for name, route in routes if model in ("", name)]

    def reports(self) -> list[control_pb2.Report]:
        """Returns how every shadow compares with its primary."""
        routes = sorted(self._operations.routes.items())
        return [
            self._operations.judging.report(name, shadow) for name, route in routes for shadow in sorted(route.shadows)
        ]

    async def changes(self, model: str, limit: int) -> list[control_pb2.AuditEntry]:
        """Returns the latest changes of one model or, without a name, of all; newest first."""
        return [_entry(record) for record in await asyncio.to_thread(self._store.audit, model, limit)]

    def _status(self, route: Route) -> control_pb2.ModelStatus:
        return control_pb2.ModelStatus(
            name=route.model,
            route=_route(route),
            versions=[self._version(route, version) for version in self._operations.versions(route.model)],
            drift=self._lookout.sentence(route.model),
        )

    def _version(self, route: Route, version: int) -> control_pb2.VersionStatus:
        state = self._operations.standing(route.model, version)
        counts = [c for c in self._fleet.counts.inferences if (c.model, c.version) == (route.model, version)]
        requests = sum(sum(count.durations.counts) for count in counts)
        failures = sum(sum(count.durations.counts) for count in counts if count.error)
        shadow = version in route.shadows
        return control_pb2.VersionStatus(
            version=version,
            role=route.role(version),
            state=state.state,
            reason=state.reason,
            digest=state.digest,
            requests=requests,
            failures=failures,
            verdict=self._operations.judging.verdict(route.model, version).decision if shadow else "",
        )


async def serve(service: ControlService, address: str) -> tuple[grpc.aio.Server, int]:
    """Starts the control API; returns its server and port, raises InvalidRequest if the address cannot be had."""
    # Asked first: grpcio would print a line of its own beside the error.
    free(address)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    control_pb2_grpc.add_ControlServicer_to_server(service, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise InvalidRequest(f"cannot listen on {address}: in use, or not an address of this host") from None
    await server.start()
    return server, port


def _request(message: Any) -> Request:
    return Request(message.model, message.actor or "unknown", message.reason)


def _route(route: Route) -> control_pb2.Route:
    shadows = [control_pb2.Shadow(version=version, sample=s) for version, s in sorted(route.shadows.items())]
    return control_pb2.Route(
        generation=route.generation,
        primary=route.primary,
        previous=route.previous,
        shadows=shadows,
        canary=_canary(route) if route.canary else None,
    )


def nanoseconds(time: str) -> int:
    """Returns a time by RFC 3339 in nanoseconds since the epoch, and 0 for none; raises InvalidRequest."""
    if not time:
        return 0
    try:
        found = datetime.fromisoformat(time)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not 0 < found.timestamp() < LATEST:
        raise InvalidRequest(f"time: expected one by RFC 3339 such as 2026-01-31T12:00:00Z, received {quoted(time)}")
    return round(found.timestamp() * 1e9)


def _joined(shadow: int, found: Labelled | GnomonError) -> control_pb2.Joined:
    if isinstance(found, GnomonError):
        return control_pb2.Joined(shadow=shadow, error=str(found))
    return control_pb2.Joined(
        shadow=shadow,
        joined=found.joined,
        waiting=found.waiting,
        late=found.late,
        duplicate=found.duplicate,
        refused=found.refused,
        reasons=found.reasons,
    )


def _canary(route: Route) -> control_pb2.Canary:
    found = control_pb2.Canary(version=route.canary, weight=route.weight)
    if route.delivery is not None:
        found.delivery.CopyFrom(
            control_pb2.Delivery(
                step=route.delivery.step + 1, began=round(route.delivery.began), paused=route.delivery.paused
            )
        )
    return found


def _change(change: Change) -> control_pb2.RouteChange:
    return control_pb2.RouteChange(before=_route(change.before), after=_route(change.after), evidence=change.evidence)


def _entry(record: AuditRecord) -> control_pb2.AuditEntry:
    entry = record.entry
    return control_pb2.AuditEntry(
        id=record.id,
        time=record.time,
        actor=entry.actor,
        action=entry.action,
        model=record.after.model,
        version=entry.version,
        reason=entry.reason,
        forced=entry.forced,
        before=_route(record.before),
        after=_route(record.after),
        evidence=report_of(entry.evidence),
    )
