"""The grounds of a promotion: the verdict and the approvals that allow it, and the signed statement of both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gnomon_protos import control_pb2
from gnomon_server.control.audit import approval
from gnomon_server.control.audit.approval import Approvals
from gnomon_server.control.audit.envelope import Subject
from gnomon_server.control.audit.promotion import Promotion
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.desired import Desired, Request, finished
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Store
from gnomon_server.control.store.rows import utc_now
from gnomon_server.control.verdict import PROMOTE
from gnomon_server.errors import InvalidRequest, Refused
from gnomon_server.settings import Settings


class Grounds:
    """What a policy asks for before a version meets users."""

    def __init__(self, settings: Settings, store: Store, desired: Desired) -> None:
        """Reads the keys of those who may approve; raises InvalidRequest if a file holds none."""
        self._settings = settings
        self._signer = store.signer
        self._approvals = Approvals(settings.audit.approvers, store)
        self._desired = desired

    async def approve(self, before: Route, version: int, envelope: str, reason: str) -> AuditRecord:
        """Keeps the approval of a version in the place of the primary."""
        wanted = self._subjects(before, version)
        return await finished(asyncio.to_thread(self._approvals.take, before.model, version, wanted, envelope, reason))

    async def check(
        self, request: Request, before: Route, version: int, report: control_pb2.Report | None, force: bool
    ) -> Sequence[str]:
        """Returns the envelopes of the approvals; raises Refused where the verdict or the approvals do not allow it.

        There is no report on a version that is no shadow. Force is about the verdict, and needs a reason.
        """
        _check_verdict(request, version, report, force)
        needed = self._settings.policy_of(before.model).approvals
        if not needed:
            return ()
        wanted = self._subjects(before, version)
        return await asyncio.to_thread(self._approvals.check, before.model, version, wanted, needed)

    def entry(
        self,
        request: Request,
        before: Route,
        version: int,
        report: control_pb2.Report | None,
        approvals: Sequence[str],
        force: bool,
    ) -> AuditEntry:
        """Returns the promotion for the audit, with the signed statement of what it rests on."""
        promotion = Promotion(
            model=before.model,
            version=version,
            digest=self._desired.digest(before.model, version),
            primary=before.primary,
            primary_digest=self._desired.digest(before.model, before.primary),
            actor=request.actor,
            reason=request.reason,
            forced=force,
            policy=self._settings.policy_of(before.model),
            report=report,
            time=utc_now(),
            approvals=approvals,
        )
        evidence = promotion.signed(self._signer)
        return AuditEntry(request.actor, "promote", version, request.reason, force, evidence)

    def _subjects(self, before: Route, version: int) -> tuple[Subject, ...]:
        digests = [self._desired.digest(before.model, number) for number in (version, before.primary)]
        return approval.subjects(before.model, version, digests[0], before.primary, digests[1])


def _check_verdict(request: Request, version: int, report: control_pb2.Report | None, force: bool) -> None:
    if force:
        if not request.reason:
            raise InvalidRequest("promote: force needs a reason, which the audit keeps")
        return
    where = f"model '{request.model}' version '{version}'"
    if report is None:
        raise Refused(f"{where} is not a shadow and has no verdict: shadow it first, or force with a reason")
    found = report.verdict
    if found.decision != PROMOTE:
        raise Refused(f"{where}: the verdict is '{found.decision}', {found.reason}")
