"""The schema of the SQLite store, as the steps that lead to it.

To change it, append one step: a script, or a function where the rows must be computed. The file's `user_version` counts
the steps that were taken on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from gnomon_server.control.audit import chain
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.audit.signing import Signer
from gnomon_server.control.routes import Route
from gnomon_server.control.store.rows import Execute, store_entry

Step = str | Callable[[Execute, Signer], None]
_DECODED: Final = msgspec.json.decode
_CHAINED: Final = """
    DROP TABLE audit;;
    DROP TABLE routes;;
    CREATE TABLE routes (model TEXT PRIMARY KEY, generation INTEGER NOT NULL, route TEXT NOT NULL);;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        body TEXT NOT NULL,
        hash TEXT NOT NULL,
        signed_by TEXT NOT NULL,
        signature TEXT NOT NULL
    );;
    CREATE INDEX audit_of_model ON audit (model, id);;
    CREATE TRIGGER audit_is_not_altered BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;;
    CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;;
    -- INSERT OR REPLACE removes a row without the trigger above.
    CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
        WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END
"""


def _chain_the_audit(execute: Execute, signer: Signer) -> None:
    """Makes each entry name the one before, and keeps a route as one value."""
    routes = execute('SELECT model, generation, "primary", previous, shadows, idle FROM routes')
    records = execute(
        "SELECT id, time, actor, action, version, reason, forced, evidence, before, after FROM audit ORDER BY id"
    )
    for statement in _CHAINED.split(";;"):
        execute(statement)
    for row in routes:
        route = _route(*row)
        values = (route.model, route.generation, msgspec.json.encode(route).decode())
        execute("INSERT INTO routes (model, generation, route) VALUES (%s, %s, %s)", values)
    previous = chain.GENESIS
    for number, row in enumerate(records, 1):
        sealed = chain.sealed(_record(number, *row[1:]), previous, signer)
        store_entry(execute, sealed)
        previous = sealed.hash


def _route(model: str, generation: int, primary: int, previous: int, shadows: str, idle: str) -> Route:
    mirrored, unused = _DECODED(shadows, type=dict[int, float]), _DECODED(idle, type=frozenset[int])
    return Route(model, generation, primary, previous, mirrored, unused)


def _record(number: int, time: str, *columns: Any) -> AuditRecord:
    actor, action, version, reason, forced, evidence, before, after = columns
    entry = AuditEntry(actor, action, version, reason, bool(forced), evidence)
    return AuditRecord(number, time, entry, _DECODED(before, type=Route), _DECODED(after, type=Route))


# From each version to the next; each step is one transaction. Never alter one that was released.
MIGRATIONS: Final[tuple[Step, ...]] = (
    """
    CREATE TABLE routes (
        model TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        "primary" INTEGER NOT NULL,
        previous INTEGER NOT NULL,
        shadows TEXT NOT NULL,
        idle TEXT NOT NULL
    );
    CREATE TABLE versions (
        model TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest TEXT NOT NULL,
        first_seen TEXT NOT NULL,
        PRIMARY KEY (model, version)
    );
    CREATE TABLE tallies (
        model TEXT NOT NULL,
        "primary" INTEGER NOT NULL,
        shadow INTEGER NOT NULL,
        comparison BLOB NOT NULL,
        updated_at TEXT NOT NULL,
        PRIMARY KEY (model, "primary", shadow)
    );
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time TEXT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        model TEXT NOT NULL REFERENCES routes (model),
        version INTEGER NOT NULL,
        reason TEXT NOT NULL,
        forced INTEGER NOT NULL,
        before TEXT NOT NULL,
        after TEXT NOT NULL,
        evidence TEXT NOT NULL
    );
    CREATE INDEX audit_of_model ON audit (model, id);
    CREATE TRIGGER audit_is_not_altered BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;
    CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;
    -- INSERT OR REPLACE removes a row without the trigger above.
    CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
        WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;
    """,
    _chain_the_audit,
    """
    ALTER TABLE tallies RENAME TO tallies_of_one;
    CREATE TABLE tallies (
        model TEXT NOT NULL,
        "primary" INTEGER NOT NULL,
        shadow INTEGER NOT NULL,
        -- Always empty here: the server that counted, where several share a store.
        replica TEXT NOT NULL,
        comparison BLOB NOT NULL,
        updated_at TEXT NOT NULL,
        PRIMARY KEY (model, "primary", shadow, replica)
    );
    INSERT INTO tallies SELECT model, "primary", shadow, '', comparison, updated_at FROM tallies_of_one;
    DROP TABLE tallies_of_one;
    """,
    """
    -- One row a server: when the guard thinned the mirroring.
    CREATE TABLE thinnings (replica TEXT PRIMARY KEY, body BLOB NOT NULL);
    """,
    """
    CREATE TABLE traffic (
        model TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest TEXT NOT NULL,
        seconds REAL NOT NULL,
        number INTEGER NOT NULL,
        shadow INTEGER NOT NULL,
        life TEXT NOT NULL,
        counts BLOB NOT NULL,
        PRIMARY KEY (model, version, digest, seconds, number, shadow, life)
    );
    """,
    """
    -- One row a server: what primaries and canaries answered since they have had their shares.
    CREATE TABLE trials (replica TEXT PRIMARY KEY, body BLOB NOT NULL);
    """,
)
