"""The store in PostgreSQL, shared by several servers.

A server that knew the routes once begins without the database, by what it remembers, and can only look and answer.

One connection, made when it is needed and made anew after it broke. Nothing waits for a database that is away or hangs:
a transaction that takes too long is cut off, and for a moment after a failure the next ones fail at once.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.comparison import Comparison
from gnomon_server.control.guarding import Thinning
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Shared, lost, passing, replicas
from gnomon_server.control.store.folder import hold, replica
from gnomon_server.control.store.memory import Memory
from gnomon_server.control.store.postgres_schema import MIGRATIONS
from gnomon_server.control.store.rows import Execute, stored_comparison, stored_routes
from gnomon_server.control.store.tables import Tables
from gnomon_server.control.strays import Handed, Passed
from gnomon_server.control.trial import Trial
from gnomon_server.errors import InvalidRequest, NotReady, Refused
from gnomon_server.redaction import redacted, secrets, without_secrets

log = logging.getLogger(__name__)

# Seconds for a connection to be made, and for one transaction.
CONNECT_SECONDS: Final = 3
STUCK_SECONDS: Final = 4.0
# Seconds after a failure in which nobody tries again.
PAUSE_SECONDS: Final = 0.5
# The key of the advisory lock that makes writers wait for each other: "gnomon" as a number.
WRITERS: Final = 0x676E6F6D6F6E
# A server that hangs in a transaction must not hold up the others; the database ends what its own side sees hang.
OPTIONS: Final = (
    "-c search_path=gnomon -c statement_timeout=4000 -c lock_timeout=3000 -c idle_in_transaction_session_timeout=4000"
)


class PostgresStore(Tables):
    """One server's part in a shared database, with a state folder of its own for key, checkpoint and name."""

    shared = True

    def __init__(self, url: str, folder: Path, signing_key: Path | None = None) -> None:
        """Connects, and brings the tables up to date.

        Raises InvalidRequest if the URL, the key or the checkpoint cannot be read, Refused if another process holds the
        folder or a newer gnomon wrote the database; NotReady if the database cannot be reached, and never was.
        """
        self._url = url
        self._name = _name(url)
        self._mutex = Lock()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._closed_until = 0.0
        self._token = 0
        # The newest entry of the audit when the routes were last read.
        self._newest = -1
        self._held = hold(folder)
        try:
            super().__init__(folder, signing_key)
            self._memory = Memory(folder)
            self._migrated = False
            # Without the database, what was counted before cannot be gone on with: another replica begins.
            self.replica = replica(folder, anew=not self._reached())
            if self._migrated and self._forgotten():
                self.replica = replica(folder, anew=True)
        except BaseException:
            self.close()
            raise

    def sync(self) -> Shared:
        """Says that this server is alive; returns what others did, and whether this one decides."""
        with self._transaction(writes=False) as execute:
            if lost.forgotten(execute, self.replica):
                raise lost.given_up()
            replicas.seen(execute, self.replica)
            token = replicas.lead(execute, self.replica)
            ((newest,),) = execute("SELECT coalesce(max(id), 0) FROM audit")
            routes = stored_routes(execute) if newest != self._newest else {}
        self._newest, self._token = newest, token
        if routes:
            self._memory.learn(routes, {})
        return Shared(routes, leads=bool(token))

    def routes(self) -> dict[str, Route]:
        """Returns the routes of all models by name; as they are remembered, until the database was reached once."""
        if not self._migrated:
            return self._memory.routes
        routes = super().routes()
        self._memory.learn(routes, {})
        return routes

    def digests(self) -> dict[tuple[str, int], str]:
        """Returns the digest that was seen first of every known version; likewise."""
        if not self._migrated:
            return self._memory.digests
        digests = super().digests()
        self._memory.learn({}, digests)
        return digests

    def tallies(self) -> list[Comparison]:
        """Returns the totals of all pairs that this server stored; none until the database was reached once."""
        if not self._migrated:
            return []
        with self._transaction() as execute:
            self._counts(execute)
            passing.forget(execute, self.replica)
        return super().tallies()

    def thinnings(self) -> list[Thinning]:
        """Returns when mirroring was thinned, as this server stored it; likewise."""
        return super().thinnings() if self._migrated else []

    def trials(self) -> list[Trial]:
        """Returns what primaries and canaries answered, as this server stored it; likewise."""
        return super().trials() if self._migrated else []

    def change(self, after: Route, entry: AuditEntry) -> AuditRecord:
        """Stores a route together with its audit record; raises as any store does."""
        record = super().change(after, entry)
        self._memory.learn({after.model: after}, {})
        return record

    def remember_digest(self, model: str, version: int, digest: str) -> str:
        """Stores the digest of a version that is seen for the first time; returns the digest that was seen first."""
        first = super().remember_digest(model, version, digest)
        self._memory.learn({}, {(model, version): first})
        return first

    def tallies_elsewhere(self) -> list[Comparison]:
        """Returns the stored totals of other servers; nothing is pending at those that are gone.

        Raises NotReady where this server was taken for lost, as its own would be among them.
        """
        with self._transaction(writes=False) as execute:
            # One statement sees the tables as they were at one moment.
            rows = execute(
                "SELECT replica, comparison FROM tallies WHERE replica <> %s "
                "UNION ALL SELECT replica, comparison FROM folded WHERE replica = %s "
                "UNION ALL SELECT id, NULL FROM replicas WHERE id = %s AND forgotten",
                (self.replica, self.replica, self.replica),
            )
            gone = replicas.gone(execute)
            passed = passing.waiting(execute)
        if any(name == self.replica for name, _ in rows):
            raise NotReady(f"{self._name}: this server was taken for lost; what it counted is stored again in a moment")
        found = ((name, stored_comparison(blob)) for name, blob in rows)
        return [*(comparison.closed() if name in gone else comparison for name, comparison in found), *passed]

    def fold(self) -> None:
        """Adds up what lost servers stored, of one at a time, if this server decides."""
        with self._transaction() as execute:
            if self._leads(execute):
                lost.fold(execute)

    def close(self) -> None:
        """Lets another process use the folder; the store is not to be used any more."""
        with self._mutex:
            self._drop()
            os.close(self._held)

    def _leads(self, execute: Execute) -> bool:
        return replicas.leads(execute, self.replica, self._token)

    def _counts(self, execute: Execute) -> None:
        lost.back(execute, self.replica)
        replicas.seen(execute, self.replica)

    def _passed(self, execute: Execute, leaving: Sequence[Handed], held: Sequence[str] | None) -> Passed:
        return passing.exchange(execute, self.replica, leaving, held)

    def _forgotten(self) -> bool:
        with self._transaction(writes=False) as execute:
            return lost.forgotten(execute, self.replica)

    def _reached(self) -> bool:
        """Whether the database is there; raises NotReady where it is not and nothing is remembered."""
        try:
            with self._transaction(writes=False):
                return True
        except NotReady as error:
            if not self._memory.routes:
                raise
            log.error(
                "%s: it begins by the routes that it last knew, and changes none until the database is back", error
            )
            return False

    def _migrate(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """Brings the tables up to date; raises Refused where they are newer than this server."""
        with connection.transaction():
            execute = _execute(connection)
            execute("SELECT pg_advisory_xact_lock(%s)", (WRITERS,))
            execute("CREATE SCHEMA IF NOT EXISTS gnomon")
            execute("CREATE TABLE IF NOT EXISTS schema (version INTEGER NOT NULL)")
            version = sum(row[0] for row in execute("SELECT version FROM schema"))
            if version > len(MIGRATIONS):
                expected = f"expected schema {len(MIGRATIONS)} or older, found {version}"
                raise Refused(f"{self._name}: a newer gnomon wrote it: {expected}")
            for step in MIGRATIONS[version:]:
                execute(step)
            execute("DELETE FROM schema")
            execute("INSERT INTO schema VALUES (%s)", (len(MIGRATIONS),))

    @contextmanager
    def _transaction(self, writes: bool = True) -> Iterator[Execute]:
        with self._mutex:
            connection = self._connected()
            guard = Timer(STUCK_SECONDS, _cut, (connection,))
            guard.start()
            try:
                if not self._migrated:
                    self._migrate(connection)
                    self._migrated = True
                with connection.transaction():
                    execute = _execute(connection)
                    if writes:
                        execute("SELECT pg_advisory_xact_lock(%s)", (WRITERS,))
                    yield execute
            except psycopg.OperationalError as error:
                self._drop()
                raise self._away(error) from error
            except psycopg.Error as error:
                why = _line(error, self._url)
                raise NotReady(f"{self._name}: the state cannot be read or written: {why}") from error
            finally:
                guard.cancel()

    def _connected(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            if time.monotonic() < self._closed_until:
                raise NotReady(f"{self._name}: the database cannot be reached; it is tried again in a moment")
            try:
                self._connection = psycopg.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=CONNECT_SECONDS,
                    options=OPTIONS,
                    application_name="gnomon",
                )
            except psycopg.Error as error:
                raise self._away(error) from error
        return self._connection

    def _away(self, error: psycopg.Error) -> NotReady:
        self._closed_until = time.monotonic() + PAUSE_SECONDS
        return NotReady(f"{self._name}: the database cannot be reached: {_line(error, self._url)}")

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def _execute(connection: psycopg.Connection[tuple[Any, ...]]) -> Execute:
    def execute(statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    return execute


def _cut(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Ends a connection under the thread that waits for it: the database neither answers nor closes."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def _name(url: str) -> str:
    """Returns what may be shown of a URL; raises InvalidRequest if it is none."""
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error as error:
        raise InvalidRequest(f"store: expected postgresql://USER@HOST/DATABASE: {_line(error, url)}") from None
    if any("@" in secret for secret in secrets(url)):
        # It would be taken for the end of the password, and what follows for the host.
        raise InvalidRequest(f"store: expected %40 for an @ in a password, received {redacted(url)}")
    host, port = parts.get("host") or "localhost", parts.get("port")
    return f"postgresql://{host}{f':{port}' if port else ''}/{parts.get('dbname') or ''}"


def _line(error: psycopg.Error, url: str) -> str:
    return without_secrets(" ".join(str(error).split()), url)
