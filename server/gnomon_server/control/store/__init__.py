"""The store: what survives a restart of the server, written only by the control process.

To add one, write a module with a class that has the methods of `Store`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gnomon_server.control.audit.chain import Sealed
from gnomon_server.control.audit.checkpoint import Checkpoint
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.audit.signing import Signer
from gnomon_server.control.comparison import Comparison
from gnomon_server.control.guarding import Thinning
from gnomon_server.control.routes import Route
from gnomon_server.control.strays import Handed, Passed
from gnomon_server.control.trial import Trial
from gnomon_server.wire.drift import WindowCounts

__all__ = ["AuditEntry", "AuditRecord", "Shared", "Store"]


@dataclass(frozen=True)
class Shared:
    """What servers that share a store have to know of each other."""

    # The routes, if any was changed since the last time.
    routes: Mapping[str, Route]
    # Whether this server decides what nobody asked for, such as the role of a new version.
    leads: bool


class Store(Protocol):
    """Routes, tallies and the audit; each method is one transaction that is durable when it returns.

    The methods block, may be called from any thread, and raise NotReady where the storage fails.
    """

    @property
    def signer(self) -> Signer:
        """Signs the audit."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other servers change it, so that `sync` has something to say."""
        ...

    def sync(self) -> Shared:
        """Says that this server is alive; returns what others did, and whether this one decides."""
        ...

    def routes(self) -> dict[str, Route]:
        """Returns the routes of all models by name."""
        ...

    def change(self, after: Route, entry: AuditEntry) -> AuditRecord:
        """Stores a route together with its audit record.

        Raises Refused if the stored route is not the one of the generation before `after`, or where the server itself
        changes it and another server decides.
        """
        ...

    def note(self, model: str, entry: AuditEntry) -> AuditRecord:
        """Stores an audit record of something that changes no route."""
        ...

    def audit(self, model: str = "", limit: int = 100) -> list[AuditRecord]:
        """Returns the latest records of one model or, without a name, of all; newest first."""
        ...

    def entries(self, after: int, limit: int) -> list[Sealed]:
        """Returns the entries of the audit as they are kept, oldest first, that follow one with this number."""
        ...

    def checkpoint(self) -> Checkpoint | None:
        """Returns the signed word on the newest entry that this server wrote; None before there is one."""
        ...

    def save_tallies(
        self, rows: Iterable[Comparison], leaving: Sequence[Handed] = (), held: Sequence[str] | None = None
    ) -> Passed:
        """Stores totals in place of earlier ones of the same pairs, and in the same moment passes labels on.

        `leaving` are those that this server is done with and does not count, `held` the names of those that it looks
        for; None: it takes none that others passed on, and looks for none. What was stored counts what is returned.
        """
        ...

    def tallies(self) -> list[Comparison]:
        """Returns the totals of all pairs that this server stored."""
        ...

    def tallies_elsewhere(self) -> list[Comparison]:
        """Returns the stored totals of other servers; nothing is pending at those that are gone.

        Raises NotReady where this server was taken for lost, as its own would be among them.
        """
        ...

    def fold(self) -> None:
        """Adds up what lost servers stored, of one at a time, if this server decides."""
        ...

    def save_thinnings(self, found: Sequence[Thinning]) -> None:
        """Stores when mirroring was thinned, in place of what this server stored before."""
        ...

    def thinnings(self) -> list[Thinning]:
        """Returns when mirroring was thinned, as this server stored it."""
        ...

    def save_windows(self, life: str, rows: Sequence[WindowCounts]) -> None:
        """Stores what one life of a server has counted in windows of traffic, in place of what it stored of the same.

        Windows that are long over are forgotten.
        """
        ...

    def windows(self, model: str, version: int) -> list[WindowCounts]:
        """Returns what all servers have counted of the traffic of a version, of one window in several parts."""
        ...

    def save_trials(self, found: Sequence[Trial]) -> None:
        """Stores what primaries and canaries answered, in place of what this server stored before."""
        ...

    def trials(self) -> list[Trial]:
        """Returns what primaries and canaries answered, as this server stored it."""
        ...

    def trials_elsewhere(self) -> list[Trial]:
        """Returns what other servers stored of that."""
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
