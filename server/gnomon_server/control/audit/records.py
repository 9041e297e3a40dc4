"""Records: what was changed, by whom, why and on what evidence."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon_server.control.routes import Route


@dataclass(frozen=True)
class AuditEntry:
    """Who changes a route, and why."""

    actor: str
    # "discover", "shadow", "canary", "deliver", "promote", "rollback", "apply", "approve", "load", "unload" or
    # "damaged".
    action: str
    version: int
    reason: str = ""
    forced: bool = False
    # What a promotion or an approval rests on: a signed statement, as a DSSE envelope in JSON; empty for other actions.
    evidence: str = ""


@dataclass(frozen=True)
class AuditRecord:
    """A change that was made; records are never altered or removed."""

    # Rises by one with each change.
    id: int
    # RFC 3339, UTC.
    time: str
    entry: AuditEntry
    before: Route
    after: Route
