"""The schema of the SQLite store, as the steps that lead to it.

To change it, append one script; the file's `user_version` counts the scripts that were run on it.
"""

from __future__ import annotations

from typing import Final

# From each version to the next; each script runs in one transaction. Never alter one that was released.
MIGRATIONS: Final = (
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
)
