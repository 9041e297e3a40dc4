"""The store in one SQLite file beside a lock file, for one server.

The write-ahead log with synchronous=FULL makes a committed change durable against the loss of the process and of power
(https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, Final

from gnomon_server.control.audit.chain import Sealed
from gnomon_server.control.audit.signing import Signer
from gnomon_server.control.store.folder import hold
from gnomon_server.control.store.rows import Execute, stored_entries
from gnomon_server.control.store.schema import MIGRATIONS
from gnomon_server.control.store.tables import Tables
from gnomon_server.errors import InvalidRequest, NotReady, Refused

FILE: Final = "gnomon.sqlite"
# Seconds to wait for someone who looks into the file with another program.
BUSY_SECONDS: Final = 5.0
# Entries of the audit that are read at once.
PAGE: Final = 500


class SqliteStore(Tables):
    """The store of one state directory, held by one process at a time.

    The lock is released by the system when the process ends, however it ends; a child that is forked without exec would
    keep it.
    """

    def __init__(self, folder: Path, signing_key: Path | None = None) -> None:
        """Opens the state in a folder, which is created if need be; without a signing key one is made in it.

        Raises InvalidRequest if the key or the checkpoint cannot be read, Refused if another process holds the state,
        if it is damaged or if a newer gnomon wrote it; NotReady if it cannot be read or written.
        """
        self._path = folder / FILE
        self._mutex = Lock()
        self._held = hold(folder)
        try:
            super().__init__(folder, signing_key)
            self._connection = _open(self._path, self.signer)
        except BaseException:
            os.close(self._held)
            raise

    def close(self) -> None:
        """Lets another process use the state; the store is not to be used any more."""
        with self._mutex:
            try:
                self._connection.close()
            finally:
                os.close(self._held)

    @contextmanager
    def _transaction(self, writes: bool = True) -> Iterator[Execute]:  # noqa: ARG002 - readers exclude each other too
        with self._mutex:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield _execute(self._connection)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise NotReady(f"{self._path}: the state cannot be read or written: {error}") from error
            finally:
                if self._connection.in_transaction:
                    # A failed rollback hides nothing: the failure before it is on its way to the caller.
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")


def _open(path: Path, signer: Signer) -> sqlite3.Connection:
    try:
        # Autocommit, so that transactions begin and end only where this module says so.
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise NotReady(f"{path}: the state cannot be opened: {error}") from None
    try:
        _prepare(path, connection, signer)
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


def _prepare(path: Path, connection: sqlite3.Connection, signer: Signer) -> None:
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
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        if isinstance(step, str):
            connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
        else:
            connection.execute("BEGIN IMMEDIATE")
            step(_execute(connection), signer)
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")


def entries_in(folder: Path) -> Iterator[Sealed]:
    """Gives the entries of the audit in a state folder, oldest first, without holding or changing it.

    Raises InvalidRequest if there is no state, Refused if it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise InvalidRequest(f"{path}: no such file")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            last = 0
            while page := stored_entries(_execute(connection), last, PAGE):
                yield from page
                last = page[-1].id
    except sqlite3.Error as error:
        raise Refused(f"{path}: cannot be read: {error}") from None


def _damaged(path: Path, detail: str) -> Refused:
    line = " ".join(detail.split())
    return Refused(f"{path}: the state is damaged ({line}): restore a copy, or move the file away to begin anew")


def _execute(connection: sqlite3.Connection) -> Execute:
    def execute(statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return connection.execute(statement.replace("%s", "?"), values).fetchall()

    return execute
