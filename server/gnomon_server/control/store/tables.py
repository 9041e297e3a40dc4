"""The tables of a store, in SQL that SQLite and PostgreSQL both understand."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from gnomon_server.control.audit import chain
from gnomon_server.control.audit.chain import GENESIS, Sealed
from gnomon_server.control.audit.checkpoint import Checkpoint, Witness
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.audit.signing import Signer
from gnomon_server.control.comparison import Comparison
from gnomon_server.control.guarding import Thinning
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Shared
from gnomon_server.control.store.rows import (
    Execute,
    latest_records,
    newest_record,
    store_entry,
    store_tally,
    stored_comparison,
    stored_entries,
    stored_route,
    stored_routes,
    stored_trials,
    utc_now,
)
from gnomon_server.control.strays import Handed, Passed, counted
from gnomon_server.control.trial import Trial
from gnomon_server.errors import Refused
from gnomon_server.wire.drift import WindowCounts, WindowKey

log = logging.getLogger(__name__)

# Windows of traffic that are kept.
KEPT_WINDOWS: Final = 100
# Who the audit names for what the server does by itself.
SERVER: Final = "gnomon"


class Tables(ABC):
    """Everything of a store but its connection: one is added by saying how a transaction is made."""

    # Whether other servers change it, so that `sync` has something to say.
    shared = False
    # The server whose tallies these are, where several share the store.
    replica = ""

    def __init__(self, folder: Path, signing_key: Path | None) -> None:
        """Keeps the checkpoint of the audit, and the key if none is named, in a folder beside the database."""
        self.signer = Signer.read(signing_key) if signing_key else Signer.of_folder(folder)
        self._witness = Witness(folder, self.signer)

    @abstractmethod
    def _transaction(self, writes: bool = True) -> AbstractContextManager[Execute]:
        """Gives what runs statements; commits at the end of the block, or else rolls back. Writers exclude each other.

        Raises NotReady where the storage fails.
        """

    def sync(self) -> Shared:
        """Says that this server is alive; returns what others did, and whether this one decides."""
        return Shared({}, leads=True)

    def tallies_elsewhere(self) -> list[Comparison]:
        """Returns the stored totals of other servers; nothing is pending at those that are gone."""
        return []

    def fold(self) -> None:  # noqa: B027 - a store of one server holds nothing of others
        """Adds up what lost servers stored, of one at a time, if this server decides."""

    def _counts(self, execute: Execute) -> None:  # noqa: B027 - likewise
        """Says that this server stores what it counted."""

    def _passed(
        self,
        execute: Execute,  # noqa: ARG002 - a store of one server has nobody to ask
        leaving: Sequence[Handed],
        held: Sequence[str] | None,  # noqa: ARG002
    ) -> Passed:
        """Passes labels on, and takes some."""
        return Passed(unknown=tuple(one.left for one in leaving))

    def _leads(self, execute: Execute) -> bool:  # noqa: ARG002 - a store of one server has nobody to ask
        """Whether this server decides what nobody asked for, until the transaction ends."""
        return True

    def routes(self) -> dict[str, Route]:
        """Returns the routes of all models by name."""
        with self._transaction(writes=False) as execute:
            return stored_routes(execute)

    def change(self, after: Route, entry: AuditEntry) -> AuditRecord:
        """Stores a route together with its audit record.

        Raises Refused if the stored route is not the one of the generation before `after`, or where the server itself
        changes it and another server decides.
        """
        with self._transaction() as execute:
            if entry.actor == SERVER and not self._leads(execute):
                raise Refused("another server that shares the store decides now")
            before = stored_route(execute, after.model)
            if before.generation != after.generation - 1:
                raise Refused(
                    f"model '{after.model}': the route was changed meanwhile: expected generation "
                    f"{after.generation - 1}, found {before.generation}; look again and repeat the change"
                )
            execute(
                "INSERT INTO routes (model, generation, route) VALUES (%s, %s, %s) "
                "ON CONFLICT (model) DO UPDATE SET generation = excluded.generation, route = excluded.route",
                (after.model, after.generation, msgspec.json.encode(after).decode()),
            )
            entries = self._append(execute, before, after, entry)
        return self._witnessed(entries)

    def note(self, model: str, entry: AuditEntry) -> AuditRecord:
        """Stores an audit record of something that changes no route."""
        with self._transaction() as execute:
            route = stored_route(execute, model)
            entries = self._append(execute, route, route, entry)
        return self._witnessed(entries)

    def audit(self, model: str = "", limit: int = 100) -> list[AuditRecord]:
        """Returns the latest records of one model or, without a name, of all; newest first."""
        with self._transaction(writes=False) as execute:
            return latest_records(execute, model, limit)

    def entries(self, after: int, limit: int) -> list[Sealed]:
        """Returns the entries of the audit as they are kept, oldest first, that follow one with this number."""
        with self._transaction(writes=False) as execute:
            return stored_entries(execute, after, limit)

    def checkpoint(self) -> Checkpoint | None:
        """Returns the signed word on the newest entry that this server wrote; None before there is one."""
        return self._witness.newest

    def save_tallies(
        self, rows: Iterable[Comparison], leaving: Sequence[Handed] = (), held: Sequence[str] | None = None
    ) -> Passed:
        """Stores totals in place of earlier ones of the same pairs, and in the same moment passes labels on.

        `leaving` are those that this server is done with and does not count, `held` the names of those that it looks
        for; None: it takes none that others passed on, and looks for none. What was stored counts what is returned.
        """
        with self._transaction() as execute:
            self._counts(execute)
            passed = self._passed(execute, leaving, held)
            for row in counted(rows, passed):
                store_tally(execute, "tallies", self.replica, row)
        return passed

    def tallies(self) -> list[Comparison]:
        """Returns the totals of all pairs that this server stored."""
        with self._transaction(writes=False) as execute:
            rows = execute(
                'SELECT comparison FROM tallies WHERE replica = %s ORDER BY model, "primary", shadow', (self.replica,)
            )
        return [stored_comparison(blob) for (blob,) in rows]

    def save_thinnings(self, found: Sequence[Thinning]) -> None:
        """Stores when mirroring was thinned, in place of what this server stored before."""
        with self._transaction() as execute:
            execute(
                "INSERT INTO thinnings (replica, body) VALUES (%s, %s) "
                "ON CONFLICT (replica) DO UPDATE SET body = excluded.body",
                (self.replica, msgspec.msgpack.encode(found)),
            )

    def thinnings(self) -> list[Thinning]:
        """Returns when mirroring was thinned, as this server stored it."""
        with self._transaction(writes=False) as execute:
            rows = execute("SELECT body FROM thinnings WHERE replica = %s", (self.replica,))
        return [one for (body,) in rows for one in msgspec.msgpack.decode(body, type=list[Thinning])]

    def save_windows(self, life: str, rows: Sequence[WindowCounts]) -> None:
        """Stores what one life of a server has counted in windows of traffic, in place of what it stored of the same.

        Windows that are long over are forgotten.
        """
        with self._transaction() as execute:
            for row in rows:
                key = row.key
                execute(
                    "INSERT INTO traffic (model, version, digest, seconds, number, shadow, life, counts) "
                    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s) "
                    "ON CONFLICT (model, version, digest, seconds, number, shadow, life) "
                    "DO UPDATE SET counts = excluded.counts",
                    (*msgspec.structs.astuple(key), life, row.counts),
                )
            execute("DELETE FROM traffic WHERE (number + %s) * seconds < %s", (KEPT_WINDOWS, time.time()))

    def windows(self, model: str, version: int) -> list[WindowCounts]:
        """Returns what all servers have counted of the traffic of a version, of one window in several parts."""
        with self._transaction(writes=False) as execute:
            rows = execute(
                "SELECT model, version, digest, seconds, number, shadow, counts FROM traffic "
                "WHERE model = %s AND version = %s ORDER BY number",
                (model, version),
            )
        return [WindowCounts(WindowKey(*key), bytes(counts)) for *key, counts in rows]

    def save_trials(self, found: Sequence[Trial]) -> None:
        """Stores what primaries and canaries answered, in place of what this server stored before."""
        with self._transaction() as execute:
            execute(
                "INSERT INTO trials (replica, body) VALUES (%s, %s) "
                "ON CONFLICT (replica) DO UPDATE SET body = excluded.body",
                (self.replica, msgspec.msgpack.encode(found)),
            )

    def trials(self) -> list[Trial]:
        """Returns what primaries and canaries answered, as this server stored it."""
        with self._transaction(writes=False) as execute:
            return stored_trials(execute("SELECT body FROM trials WHERE replica = %s", (self.replica,)))

    def trials_elsewhere(self) -> list[Trial]:
        """Returns what other servers stored of that."""
        with self._transaction(writes=False) as execute:
            return stored_trials(execute("SELECT body FROM trials WHERE replica <> %s", (self.replica,)))

    def remember_digest(self, model: str, version: int, digest: str) -> str:
        """Stores the digest of a version that is seen for the first time; returns the digest that was seen first."""
        with self._transaction() as execute:
            execute(
                "INSERT INTO versions (model, version, digest, first_seen) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                (model, version, digest, utc_now()),
            )
            rows = execute("SELECT digest FROM versions WHERE model = %s AND version = %s", (model, version))
        return str(rows[0][0])

    def digests(self) -> dict[tuple[str, int], str]:
        """Returns the digest that was seen first of every known version, by model and version."""
        with self._transaction(writes=False) as execute:
            rows = execute("SELECT model, version, digest FROM versions")
        return {(str(model), int(version)): str(digest) for model, version, digest in rows}

    def _append(self, execute: Execute, before: Route, after: Route, entry: AuditEntry) -> list[Sealed]:
        """Stores an entry, and before it one that says so if entries that were witnessed are not there any more."""
        newest = execute("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1")
        number, previous = newest[0] if newest else (0, GENESIS)
        wanted = [(before, after, entry)]
        if damage := self._damage(execute, before):
            log.error("the audit is damaged: %s", damage)
            wanted.insert(0, (before, before, AuditEntry(SERVER, chain.DAMAGED, 0, damage)))
        added = []
        for one, other, said in wanted:
            number += 1
            sealed = chain.sealed(AuditRecord(number, utc_now(), said, one, other), previous, self.signer)
            store_entry(execute, sealed)
            previous = sealed.hash
            added.append(sealed)
        return added

    def _damage(self, execute: Execute, route: Route) -> str:
        """Returns what contradicts the checkpoint, or the stored route, or nothing."""
        seen = self._witness.newest
        if seen and execute("SELECT hash FROM audit WHERE id = %s", (seen.entries,)) != [(seen.hash,)]:
            return f"entry {seen.entries}, which this server wrote at {seen.time}, was altered or removed"
        newest = newest_record(execute, route.model)
        if route != (newest.after if newest else Route(route.model)):
            return f"the route of model '{route.model}' was altered beside the audit"
        return ""

    def _witnessed(self, entries: Sequence[Sealed]) -> AuditRecord:
        record = entries[-1].record
        self._witness.saw(record.id, entries[-1].hash, record.time)
        return record
