"""Replicas: who shares a store, who of them is alive, and which one decides."""

from __future__ import annotations

from typing import Final

from gnomon_server.control.store.rows import Execute

# Seconds without a sign of life after which a replica counts as gone, and after which another may decide. The clock is
# the database's: those of the replicas may differ.
GONE_SECONDS: Final = 3.0


def seen(execute: Execute, replica: str) -> None:
    """Stores that a replica is alive."""
    execute(
        "INSERT INTO replicas (id, seen) VALUES (%s, clock_timestamp()) "
        "ON CONFLICT (id) DO UPDATE SET seen = excluded.seen",
        (replica,),
    )


def lead(execute: Execute, replica: str) -> int:
    """Takes or keeps the right to decide; returns its token, or 0 where another replica has it.

    The token rises whenever the right goes to another: what was begun under an older one is refused by `leads`.
    """
    rows = execute(
        "UPDATE lease SET token = token + CASE WHEN holder = %s THEN 0 ELSE 1 END, holder = %s, "
        "until = clock_timestamp() + make_interval(secs => %s) "
        "WHERE holder = %s OR until < clock_timestamp() RETURNING token",
        (replica, replica, GONE_SECONDS, replica),
    )
    return int(rows[0][0]) if rows else 0


def leads(execute: Execute, replica: str, token: int) -> bool:
    """Whether a replica still decides under a token; the right cannot go to another before the transaction ends."""
    statement = "SELECT 1 FROM lease WHERE holder = %s AND token = %s AND until > clock_timestamp() FOR UPDATE"
    return bool(execute(statement, (replica, token)))


def gone(execute: Execute) -> frozenset[str]:
    """Returns the replicas that gave no sign of life for too long."""
    rows = execute(
        "SELECT id FROM replicas WHERE seen < clock_timestamp() - make_interval(secs => %s)", (GONE_SECONDS,)
    )
    return frozenset(str(replica) for (replica,) in rows)
