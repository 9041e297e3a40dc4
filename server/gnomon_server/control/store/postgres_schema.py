"""The schema of the PostgreSQL store, as the steps that lead to it.

To change it, append one step. The table `schema` holds how many were taken.
"""

from __future__ import annotations

from typing import Final

# From each version to the next; each step is one transaction. Never alter one that was released.
MIGRATIONS: Final = (
    """
    CREATE TABLE routes (model TEXT PRIMARY KEY, generation BIGINT NOT NULL, route TEXT NOT NULL);
    CREATE TABLE versions (
        model TEXT NOT NULL,
        version BIGINT NOT NULL,
        digest TEXT NOT NULL,
        first_seen TEXT NOT NULL,
        PRIMARY KEY (model, version)
    );
    CREATE TABLE tallies (
        model TEXT NOT NULL,
        "primary" BIGINT NOT NULL,
        shadow BIGINT NOT NULL,
        replica TEXT NOT NULL,
        comparison BYTEA NOT NULL,
        updated_at TEXT NOT NULL,
        PRIMARY KEY (model, "primary", shadow, replica)
    );
    CREATE TABLE audit (
        id BIGINT PRIMARY KEY,
        model TEXT NOT NULL,
        body TEXT NOT NULL,
        hash TEXT NOT NULL,
        signed_by TEXT NOT NULL,
        signature TEXT NOT NULL
    );
    CREATE INDEX audit_of_model ON audit (model, id);
    CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the audit only grows'; END $$;
    CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        EXECUTE FUNCTION audit_only_grows();
    CREATE TABLE replicas (id TEXT PRIMARY KEY, seen TIMESTAMPTZ NOT NULL);
    CREATE TABLE lease (holder TEXT NOT NULL, token BIGINT NOT NULL, until TIMESTAMPTZ NOT NULL);
    INSERT INTO lease VALUES ('', 0, '-infinity');
    """,
    """
    CREATE TABLE thinnings (replica TEXT PRIMARY KEY, body BYTEA NOT NULL);
    """,
    """
    -- The rows of servers that are lost, whose sum is in tallies: those alone are what everybody reads.
    CREATE TABLE folded (
        replica TEXT NOT NULL,
        model TEXT NOT NULL,
        "primary" BIGINT NOT NULL,
        shadow BIGINT NOT NULL,
        comparison BYTEA NOT NULL,
        updated_at TEXT NOT NULL,
        PRIMARY KEY (replica, model, "primary", shadow)
    );
    ALTER TABLE replicas ADD COLUMN forgotten BOOLEAN NOT NULL DEFAULT false;
    """,
    """
    CREATE TABLE traffic (
        model TEXT NOT NULL,
        version BIGINT NOT NULL,
        digest TEXT NOT NULL,
        seconds DOUBLE PRECISION NOT NULL,
        number BIGINT NOT NULL,
        shadow BIGINT NOT NULL,
        life TEXT NOT NULL,
        counts BYTEA NOT NULL,
        PRIMARY KEY (model, version, digest, seconds, number, shadow, life)
    );
    """,
    """
    -- Labels whose requests the servers that were asked do not know.
    CREATE TABLE strays (
        id TEXT PRIMARY KEY,
        model TEXT NOT NULL,
        "primary" BIGINT NOT NULL,
        shadow BIGINT NOT NULL,
        asked TEXT[] NOT NULL,
        -- Who looks for the requests now; empty: nobody.
        holder TEXT NOT NULL DEFAULT '',
        number BIGINT NOT NULL,
        -- Empty once they are passed on or counted.
        labels BYTEA NOT NULL,
        -- Seconds since the epoch.
        since DOUBLE PRECISION NOT NULL
    );
    """,
    """
    CREATE TABLE trials (replica TEXT PRIMARY KEY, body BYTEA NOT NULL);
    """,
)
