"""The store: what survives a restart of the server, written only by the control process.

To add one, write a module with a class that has the methods of `Store`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from gnomon_server.control.comparison import Comparison
from gnomon_server.control.routes import Route

__all__ = ["AuditEntry", "AuditRecord", "Store"]


@dataclass(frozen=True)
class AuditEntry:
    """Who changes a route, and why."""

    actor: str
    # "discover", "shadow", "promote" or "rollback".
    action: str
    version: int
    reason: str = ""
    forced: bool = False
    # The report that a promotion rests on, as JSON; empty for other actions.
    evidence: str = ""


@dataclass(frozen=True)
class AuditRecord:
    """A change that was made; records are never altered or removed."""

    # Rises by the order of changes.
    id: int
    # RFC 3339, UTC.
    time: str
    entry: AuditEntry
    before: Route
    after: Route


class Store(Protocol):
    """Routes, tallies and the audit; each method is one transaction that is durable when it returns.

    The methods block, may be called from any thread, and raise NotReady where the storage fails.
    """

    def routes(self) -> dict[str, Route]:
        """Returns the routes of all models by name."""
        ...

    def change(self, after: Route, entry: AuditEntry) -> AuditRecord:
        """Stores a route together with its audit record.

        Raises Refused if the stored route is not the one of the generation before `after`.
        """
        ...

    def audit(self, model: str = "", limit: int = 100) -> list[AuditRecord]:
        """Returns the latest records of one model or, without a name, of all; newest first."""
        ...

    def save_tallies(self, rows: Iterable[Comparison]) -> None:
        """Stores totals in place of earlier ones of the same pairs."""
        ...

    def tallies(self) -> list[Comparison]:
        """Returns the stored totals of all pairs."""
        ...

    def remember_digest(self, model: str, version: int, digest: str) -> str:
        """Stores the digest of a version that is seen for the first time; returns the digest that was seen first."""
        ...

    def digests(self) -> dict[tuple[str, int], str]:
        """Returns the digest that was seen first of every known version, by model and version."""
        ...

    def close(self) -> None:
        """Lets another process use the state; the store is not to be used any more."""
        ...
