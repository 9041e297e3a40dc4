"""The client of the control service: looking at models and their shadows, and changing which version answers."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from google.protobuf.message import Message

from gnomon_client.calls import Call
from gnomon_client.connection import Connection, target_of
from gnomon_client.headers import Metadata
from gnomon_client.retries import DEFAULT_RETRIES, Retries
from gnomon_client.tls import Tls
from gnomon_protos import control_pb2 as pb
from gnomon_protos.manifest_pb2 import Manifest

_SERVICE: Final = "/gnomon.v1.Control/"

Answer = TypeVar("Answer", bound=Message)
Label = str | int | float | bool


class Control:
    """Calls the control service; its answers are the messages of gnomon_protos.control_pb2.

    Every method takes `timeout`, the seconds for all of its attempts together (None: the client's own), and raises the
    ClientError of the call's status. Looking is tried again while the server is unavailable; a change never is, since
    it may have been made before the connection broke.
    """

    def __init__(
        self,
        address: str = "localhost:8003",
        *,
        timeout: float | None = 30.0,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        metadata: Metadata | None = None,
        actor: str = "",
    ) -> None:
        self._connection = Connection(target_of(address, timeout, tls, retries, metadata))
        # Who the audit names; by default the user and the host of this process.
        self.actor = actor or _own_name()

    def models(self, model: str = "", *, timeout: float | None = None) -> pb.ListModelsResponse:
        """Returns all models, or one, with their versions, roles and states."""
        return self._look("ListModels", pb.ListModelsRequest(model=model), pb.ListModelsResponse, timeout)

    def report(self, model: str, shadow: int = 0, *, timeout: float | None = None) -> pb.Report:
        """Returns how a shadow compares with its primary; `shadow` may be 0 where there is only one."""
        return self._look("GetReport", pb.GetReportRequest(model=model, shadow=shadow), pb.Report, timeout)

    def divergent(
        self, model: str, shadow: int = 0, limit: int = 0, *, timeout: float | None = None
    ) -> pb.ListDivergentResponse:
        """Returns requests on which a shadow disagrees, newest first; 0: all that the server keeps."""
        request = pb.ListDivergentRequest(model=model, shadow=shadow, limit=limit)
        return self._look("ListDivergent", request, pb.ListDivergentResponse, timeout)

    def drift(self, model: str, limit: int = 0, *, timeout: float | None = None) -> pb.DriftReport:
        """Returns how a model's traffic differs from the reference of its primary, newest window first; 0: all."""
        return self._look("GetDrift", pb.GetDriftRequest(model=model, limit=limit), pb.DriftReport, timeout)

    def audit(self, model: str = "", limit: int = 100, *, timeout: float | None = None) -> pb.ListAuditResponse:
        """Returns the latest changes of all models, or of one, newest first."""
        return self._look("ListAudit", pb.ListAuditRequest(model=model, limit=limit), pb.ListAuditResponse, timeout)

    def export_audit(self, after: int = 0, limit: int = 500, *, timeout: float | None = None) -> pb.ExportAuditResponse:
        """Returns entries of the audit as they are kept, oldest first, and what verifies them."""
        request = pb.ExportAuditRequest(after=after, limit=limit)
        return self._look("ExportAudit", request, pb.ExportAuditResponse, timeout)

    def manifest(self, model: str, version: int, *, timeout: float | None = None) -> Manifest:
        """Returns what a version says of itself, without its golden sample; empty where it says nothing."""
        return self._look("GetManifest", pb.GetManifestRequest(model=model, version=version), Manifest, timeout)

    def approve(
        self, model: str, version: int, envelope: str, reason: str = "", *, timeout: float | None = None
    ) -> pb.AuditEntry:
        """Hands in a signed approval of a promotion: an in-toto statement in a DSSE envelope, as JSON."""
        request = pb.ApproveRequest(model=model, version=version, envelope=envelope, reason=reason)
        return self._change("Approve", request, pb.AuditEntry, timeout)

    def shadow(
        self,
        model: str,
        version: int,
        sample: float = 1.0,
        off: bool = False,
        reason: str = "",
        *,
        force: bool = False,
        timeout: float | None = None,
    ) -> pb.RouteChange:
        """Mirrors a share of a model's requests, in (0, 1], to a version; `off` ends it.

        `force` makes one a shadow whose signature is not the primary's, so that no request of it can be compared.
        """
        request = pb.SetShadowRequest(model=model, version=version, sample=0.0 if off else sample, off=off, force=force)
        request.actor, request.reason = self.actor, reason
        return self._change("SetShadow", request, pb.RouteChange, timeout)

    def canary(
        self,
        model: str,
        version: int = 0,
        weight: float = 0.05,
        off: bool = False,
        reason: str = "",
        *,
        timeout: float | None = None,
    ) -> pb.RouteChange:
        """Has a version answer a share of a model's requests, in (0, 1], as its canary.

        `off` ends it; `version` may be 0 then.
        """
        request = pb.SetCanaryRequest(
            model=model, version=version, weight=0.0 if off else weight, off=off, actor=self.actor, reason=reason
        )
        return self._change("SetCanary", request, pb.RouteChange, timeout)

    def deliver(
        self, model: str, version: int = 0, action: str = "", reason: str = "", *, timeout: float | None = None
    ) -> pb.RouteChange:
        """Begins to make a version the primary step by step; or, without one, moves a delivery on.

        `action` is "next", "pause", "resume" or "abort" then.
        """
        request = pb.DeliverRequest(model=model, version=version, action=action, actor=self.actor, reason=reason)
        return self._change("Deliver", request, pb.RouteChange, timeout)

    def promote(
        self, model: str, version: int, force: bool = False, reason: str = "", *, timeout: float | None = None
    ) -> pb.RouteChange:
        """Makes a version the primary; without a favourable verdict only with `force` and a reason."""
        request = pb.PromoteRequest(model=model, version=version, force=force, actor=self.actor, reason=reason)
        return self._change("Promote", request, pb.RouteChange, timeout)

    def apply(
        self,
        model: str,
        generation: int,
        primary: int,
        shadows: Mapping[int, float],
        force: bool = False,
        reason: str = "",
        *,
        canary: tuple[int, float] | None = None,
        timeout: float | None = None,
    ) -> pb.RouteChange:
        """Gives a model this primary and these shadows, by version their share of the requests, in one change.

        `canary` is the version that answers a share of the requests, and that share; without it there is none.
        Refused if the route has not the generation that the caller looked at; `force` is about the verdict, as for
        `promote`, and about signatures, as for `shadow`.
        """
        request = pb.ApplyRouteRequest(
            model=model,
            generation=generation,
            primary=primary,
            shadows=[pb.Shadow(version=version, sample=sample) for version, sample in shadows.items()],
            force=force,
            actor=self.actor,
            reason=reason,
            canary=pb.Canary(version=canary[0], weight=canary[1]) if canary else None,
        )
        return self._change("ApplyRoute", request, pb.RouteChange, timeout)

    def scale(self, workers: int, *, timeout: float | None = None) -> pb.ScaleResponse:
        """Makes it so many frontends, until the server is started anew; returns how many answer."""
        return self._change("Scale", pb.ScaleRequest(workers=workers), pb.ScaleResponse, timeout)

    def feedback(
        self,
        model: str,
        labels: Iterable[tuple[str, Label | Sequence[Label]] | tuple[str, Label | Sequence[Label], str]],
        shadow: int = 0,
        *,
        timeout: float | None = None,
    ) -> pb.FeedbackResponse:
        """Says what became known of at most 10,000 requests: their id, a label a row, and when (RFC 3339; now).

        A label is text or a number. Sending them again does no harm: the first label of a request counts.
        """
        items = [
            pb.Label(id=name, labels=_texts(values), time=time[0] if time else "") for name, values, *time in labels
        ]
        request = pb.FeedbackRequest(model=model, shadow=shadow, labels=items)
        return self._look("Feedback", request, pb.FeedbackResponse, timeout)

    def rollback(self, model: str, reason: str = "", *, timeout: float | None = None) -> pb.RouteChange:
        """Makes the previous primary the primary again."""
        request = pb.RollbackRequest(model=model, actor=self.actor, reason=reason)
        return self._change("Rollback", request, pb.RouteChange, timeout)

    def close(self) -> None:
        """Ends the connection; calls in flight fail with Cancelled."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _look(self, method: str, request: Message, answer: type[Answer], timeout: float | None) -> Answer:
        call: Call[Answer] = Call(f"{_SERVICE}{method}", request, answer, _same)
        return self._connection.run(call, self._connection.target.attempts(timeout))

    def _change(self, method: str, request: Message, answer: type[Answer], timeout: float | None) -> Answer:
        call: Call[Answer] = Call(f"{_SERVICE}{method}", request, answer, _same, repeatable=False)
        return self._connection.run(call, self._connection.target.attempts(timeout))


def _same(message: Any) -> Any:
    return message


def _texts(values: Label | Sequence[Label]) -> list[str]:
    rows = [values] if isinstance(values, (str, int, float)) else values
    return [str(row) for row in rows]


def _own_name() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A process whose user id has no entry, as in many containers.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
