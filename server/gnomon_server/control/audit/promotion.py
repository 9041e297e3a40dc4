"""The evidence of a promotion, as a signed statement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gnomon_protos import control_pb2
from gnomon_server.control import reports
from gnomon_server.control.audit import envelope
from gnomon_server.control.audit.signing import Signer
from gnomon_server.settings import Policy

PREDICATE: Final = "urn:gnomon:promotion:v1"


@dataclass(frozen=True)
class Promotion:
    """What is promoted, in whose place, and why that is allowed."""

    model: str
    version: int
    digest: str
    # The version whose place it takes; 0: none.
    primary: int
    primary_digest: str
    actor: str
    reason: str
    forced: bool
    policy: Policy
    # None where the version was no shadow.
    report: control_pb2.Report | None
    # RFC 3339, UTC.
    time: str
    # The envelopes of those who approved, in JSON.
    approvals: Sequence[str] = ()

    def signed(self, signer: Signer) -> str:
        """Returns the statement in its envelope, as JSON."""
        subjects = [envelope.version_subject(self.model, self.version, self.digest)]
        if self.primary:
            subjects.append(envelope.version_subject(self.model, self.primary, self.primary_digest))
        return envelope.signed(subjects, PREDICATE, self._predicate(), signer)

    def _predicate(self) -> dict[str, Any]:
        policy = msgspec.json.encode(self.policy, order="sorted")
        return {
            "model": self.model,
            "promoted": self.version,
            "replaces": self.primary,
            "actor": self.actor,
            "reason": self.reason,
            "forced": self.forced,
            "policy": msgspec.json.decode(policy),
            "policyDigest": {"sha256": hashlib.sha256(policy).hexdigest()},
            "window": {"since": self.report.since if self.report else "", "until": self.time},
            # Counts, bounds and verdict, as the control API gives them.
            "report": json.loads(reports.to_json(self.report)) if self.report else None,
            "approvals": [msgspec.json.decode(text) for text in self.approvals],
        }


def report_of(evidence: str) -> control_pb2.Report | None:
    """Returns the report in the evidence of an audit record; None where there is none."""
    if not evidence:
        return None
    if '"payloadType"' not in evidence:
        # From before evidence was signed: the report itself.
        return reports.from_json(evidence)
    found = envelope.opened(evidence, "evidence").predicate.get("report")
    return reports.from_json(json.dumps(found)) if found else None
