"""The store in one SQLite file beside a lock file, for one server.

The write-ahead log with synchronous=FULL makes a committed change durable against the loss of the process and of power
(https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import msgspec

from gnomon_server.control.comparison import Comparison
from gnomon_server.control.routes import Route
from gnomon_server.control.store import AuditEntry, AuditRecord
from gnomon_server.control.store.schema import MIGRATIONS
from gnomon_server.errors import NotReady, Refused

Kind = TypeVar("Kind")
FILE: Final = "gnomon.sqlite"
# Seconds to wait for someone who looks into the file with another program.
BUSY_SECONDS: Final = 5.0


class SqliteStore:
    """The store of one state directory, held by one process at a time.

    The lock is released by the system when the process ends, however it ends; a child that is forked without exec would
    keep it.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the state in a folder, which is created if need be.

        Raises Refused if another process holds it, if the file is damaged or if a newer gnomon wrote it; NotReady if it
        cannot be read or written.
        """
        self._path = folder / FILE
        self._mutex = Lock()
        self._held = _hold(folder)
        try:
            self._connection = _open(self._path)
        except BaseException:
            os.close(self._held)
            raise

    def routes(self) -> dict[str, Route]:
        """Returns the routes of all models by name."""
        with self._transaction() as connection:
            rows = connection.execute(
                'SELECT model, generation, "primary", previous, shadows, idle FROM routes ORDER BY model'
            ).fetchall()
        return {row[0]: _route(*row) for row in rows}

    def change(self, after: Route, entry: AuditEntry) -> AuditRecord:
        """Stores a route together with its audit record.

        Raises Refused if the stored route is not the one of the generation before `after`.
        """
        with self._transaction() as connection:
            before = _stored(connection, after.model)
            if before.generation != after.generation - 1:
                raise Refused(
                    f"model '{after.model}': the route was changed meanwhile: expected generation "
                    f"{after.generation - 1}, found {before.generation}; look again and repeat the change"
                )
            connection.execute(
                'INSERT INTO routes (model, generation, "primary", previous, shadows, idle) VALUES (?, ?, ?, ?, ?, ?) '
                'ON CONFLICT (model) DO UPDATE SET generation = excluded.generation, "primary" = excluded."primary", '
                "previous = excluded.previous, shadows = excluded.shadows, idle = excluded.idle",
                (
                    *(after.model, after.generation, after.primary, after.previous),
                    *(_json(after.shadows), _json(sorted(after.idle))),
                ),
            )
            return _append(connection, before, after, entry)

    def audit(self, model: str = "", limit: int = 100) -> list[AuditRecord]:
        """Returns the latest records of one model or, without a name, of all; newest first."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id, time, actor, action, version, reason, forced, evidence, before, after FROM audit "
                "WHERE :model IN ('', model) ORDER BY id DESC LIMIT :limit",
                {"model": model, "limit": limit},
            ).fetchall()
        return [_record(*row) for row in rows]

    def save_tallies(self, rows: Iterable[Comparison]) -> None:
        """Stores totals in place of earlier ones of the same pairs."""
        now = _now()
        # MessagePack keeps every float as it is; JSON has no infinities.
        values = [(row.pair.model, row.pair.primary, row.pair.shadow, msgspec.msgpack.encode(row), now) for row in rows]
        with self._transaction() as connection:
            connection.executemany(
                'INSERT OR REPLACE INTO tallies (model, "primary", shadow, comparison, updated_at) '
                "VALUES (?, ?, ?, ?, ?)",
                values,
            )

    def tallies(self) -> list[Comparison]:
        """Returns the stored totals of all pairs."""
        with self._transaction() as connection:
            rows = connection.execute('SELECT comparison FROM tallies ORDER BY model, "primary", shadow').fetchall()
        return [_parsed(msgspec.msgpack.decode, blob, Comparison) for (blob,) in rows]

    def remember_digest(self, model: str, version: int, digest: str) -> str:
        """Stores the digest of a version that is seen for the first time; returns the digest that was seen first."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO versions (model, version, digest, first_seen) VALUES (?, ?, ?, ?)",
                (model, version, digest, _now()),
            )
            key = (model, version)
            row = connection.execute("SELECT digest FROM versions WHERE model = ? AND version = ?", key).fetchone()
        return str(row[0])

    def digests(self) -> dict[tuple[str, int], str]:
        """Returns the digest that was seen first of every known version, by model and version."""
        with self._transaction() as connection:
            rows = connection.execute("SELECT model, version, digest FROM versions").fetchall()
        return {(str(model), int(version)): str(digest) for model, version, digest in rows}

    def close(self) -> None:
        """Lets another process use the state; the store is not to be used any more."""
        with self._mutex:
            try:
                self._connection.close()
            finally:
                os.close(self._held)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise NotReady(f"{self._path}: the state cannot be read or written: {error}") from error
            finally:
                if self._connection.in_transaction:
                    # A failed rollback hides nothing: the failure before it is on its way to the caller.
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")


def _hold(folder: Path) -> int:
    """Returns a file descriptor that locks the folder's state until it is closed."""
    file = folder / f"{FILE}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NotReady(f"{folder}: the state folder cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(held, 32).decode(errors="replace").strip()
        os.close(held)
        if not isinstance(error, BlockingIOError):
            raise NotReady(f"{file}: cannot be locked: {error.strerror}") from None
        who = f" (process {owner})" if owner else ""
        raise Refused(f"{folder}: another gnomon{who} uses this state: stop it, or choose another folder") from None
    os.ftruncate(held, 0)
    os.write(held, f"{os.getpid()}\n".encode())
    return held


def _open(path: Path) -> sqlite3.Connection:
    try:
        # Autocommit, so that transactions begin and end only where this module says so.
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise NotReady(f"{path}: the state cannot be opened: {error}") from None
    try:
        _prepare(path, connection)
    except sqlite3.OperationalError as error:
        connection.close()
        raise NotReady(f"{path}: the state cannot be opened: {error}") from None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise _damaged(path, str(error)) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(path: Path, connection: sqlite3.Connection) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise _damaged(path, "; ".join(map(str, found)))
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise Refused(
            f"{path}: a newer gnomon wrote this state: expected schema {len(MIGRATIONS)} or older, found {version}"
        )
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")


def _damaged(path: Path, detail: str) -> Refused:
    line = " ".join(detail.split())
    return Refused(f"{path}: the state is damaged ({line}): restore a copy, or move the file away to begin anew")


def _stored(connection: sqlite3.Connection, model: str) -> Route:
    row = connection.execute(
        'SELECT model, generation, "primary", previous, shadows, idle FROM routes WHERE model = ?', (model,)
    ).fetchone()
    return _route(*row) if row else Route(model)


def _append(connection: sqlite3.Connection, before: Route, after: Route, entry: AuditEntry) -> AuditRecord:
    time = _now()
    cursor = connection.execute(
        "INSERT INTO audit (time, actor, action, model, version, reason, forced, before, after, evidence) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(time, entry.actor, entry.action, after.model, entry.version, entry.reason, entry.forced),
            *(_json(before), _json(after), entry.evidence),
        ),
    )
    return AuditRecord(cursor.lastrowid or 0, time, entry, before, after)


def _route(model: str, generation: int, primary: int, previous: int, shadows: str, idle: str) -> Route:
    return Route(
        model=model,
        generation=generation,
        primary=primary,
        previous=previous,
        shadows=_parsed(msgspec.json.decode, shadows, dict[int, float]),
        idle=_parsed(msgspec.json.decode, idle, frozenset[int]),
    )


def _record(
    number: int,
    time: str,
    actor: str,
    action: str,
    version: int,
    reason: str,
    forced: int,
    evidence: str,
    before: str,
    after: str,
) -> AuditRecord:
    entry = AuditEntry(actor, action, version, reason, bool(forced), evidence)
    routes = (_parsed(msgspec.json.decode, route, Route) for route in (before, after))
    return AuditRecord(number, time, entry, *routes)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _parsed(decode: Callable[..., Any], text: str | bytes, kind: type[Kind]) -> Kind:
    try:
        value: Kind = decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(f"the state holds a row that cannot be read: {error}") from None
    return value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
