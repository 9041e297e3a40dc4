"""The demo's ending: what it was asked for, and what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gnomon_protos import control_pb2
from gnomon_server.cli.demo.traffic import Counts


@dataclass(frozen=True)
class Options:
    """How the demo is played."""

    # Requests a second.
    rate: float
    # Least number of requests before a promotion.
    requests: int
    # A version that is trained with version 3's mistake; None: none.
    broken: int | None = None


@dataclass(frozen=True)
class Ending:
    """What happened."""

    reports: Mapping[int, control_pb2.Report]
    # The server's words if it refused the promotion.
    refusal: str
    counts: Counts
    # Accuracy in each version's own test, and on the months of the traffic.
    own: Mapping[int, float]
    live: Mapping[int, float]
    audit: control_pb2.ListAuditResponse
    memory_at_rest: int | None
    seconds: float

    @property
    def good(self) -> bool:
        """Whether version 2 was promoted, version 3 rejected and nobody noticed."""
        rejected = self.reports[3].verdict.decision == "reject"
        return not self.refusal and rejected and not self.counts.failed and self.counts.requests.get("2", 0) > 0
