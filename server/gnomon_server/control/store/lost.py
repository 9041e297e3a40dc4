"""Lost replicas: what they stored as one sum, so that nobody reads a row of every server that ever was.

The rows of a lost replica are laid aside, and a sum stands in their place. One that is back after all gets its rows
back, and the sum is made anew without them, since sums cannot be taken apart: nothing is counted twice or lost,
whenever it comes. After a month its rows are given up for good, and so is its name: who still has it may store nothing.

Each function is a part of a transaction in which no other server writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.control.store.rows import Execute, store_tally, stored_comparison
from gnomon_server.errors import NotReady

# The name, of no server, of the sum; among what is laid aside, of those that are given up.
SUM: Final = ""
# Seconds without a sign of life after which the rows are laid aside, and after which they are given up; by the
# database's clock.
LOST_SECONDS: Final = 3600.0
FORGOTTEN_SECONDS: Final = 30 * 86400.0
_PAIR: Final = 'model, "primary", shadow'


def fold(execute: Execute) -> None:
    """Lays the rows of one replica aside, of those that are lost, and gives up those of another."""
    for name in _silent(execute, "tallies", LOST_SECONDS):
        for part in _taken(execute, "tallies", name):
            store_tally(execute, "folded", name, part)
            _add(execute, "tallies", part)
    for name in _silent(execute, "folded", FORGOTTEN_SECONDS):
        for part in _taken(execute, "folded", name):
            _add(execute, "folded", part)
        for table in ("thinnings", "trials"):
            execute(f"DELETE FROM {table} WHERE replica = %s", (name,))  # noqa: S608
        execute("UPDATE strays SET labels = '' WHERE holder = %s", (name,))
        execute("UPDATE replicas SET forgotten = true WHERE id = %s", (name,))


def back(execute: Execute, replica: str) -> None:
    """Gives a replica that is alive its rows back; raises NotReady where they are given up."""
    if forgotten(execute, replica):
        raise given_up()
    for part in _taken(execute, "folded", replica):
        store_tally(execute, "tallies", replica, part)
        _renew(execute, part.pair)


def forgotten(execute: Execute, replica: str) -> bool:
    """Whether a replica's name is given up."""
    return bool(execute("SELECT 1 FROM replicas WHERE id = %s AND forgotten", (replica,)))


def given_up() -> NotReady:
    """Returns what to say to a server whose name is given up."""
    days = f"{FORGOTTEN_SECONDS / 86400:g} days"
    return NotReady(f"this server was away from the database for {days} and is taken for lost: start it anew")


def _silent(execute: Execute, table: str, seconds: float) -> Iterable[str]:
    """Returns the replica that has been silent for longest, if it has been for so long and has rows in a table."""
    rows = execute(
        f"SELECT id FROM replicas WHERE seen < clock_timestamp() - make_interval(secs => %s) "  # noqa: S608
        f"AND EXISTS (SELECT 1 FROM {table} WHERE replica = id) ORDER BY seen LIMIT 1",
        (seconds,),
    )
    return [str(name) for (name,) in rows]


def _taken(execute: Execute, table: str, name: str) -> list[Comparison]:
    rows = execute(f"DELETE FROM {table} WHERE replica = %s RETURNING comparison", (name,))  # noqa: S608
    return [stored_comparison(blob) for (blob,) in rows]


def _add(execute: Execute, table: str, part: Comparison) -> None:
    """Adds what a lost replica counted to a sum: what was pending there never settles."""
    of_pair = f"SELECT comparison FROM {table} WHERE ({_PAIR}) = (%s, %s, %s) AND replica = %s"  # noqa: S608
    rows = execute(of_pair, (*_key(part.pair), SUM))
    store_tally(execute, table, SUM, _sum([*(stored_comparison(blob) for (blob,) in rows), part]))


def _renew(execute: Execute, pair: Pair) -> None:
    """Makes the sum of a pair from what is laid aside."""
    rows = execute(f"SELECT comparison FROM folded WHERE ({_PAIR}) = (%s, %s, %s)", _key(pair))  # noqa: S608
    execute(f"DELETE FROM tallies WHERE ({_PAIR}) = (%s, %s, %s) AND replica = %s", (*_key(pair), SUM))  # noqa: S608
    if rows:
        store_tally(execute, "tallies", SUM, _sum(stored_comparison(blob) for (blob,) in rows))


def _sum(parts: Iterable[Comparison]) -> Comparison:
    first, *others = (part.closed() for part in parts)
    for other in others:
        first = first.plus(other)
    return first


def _key(pair: Pair) -> tuple[str, int, int]:
    return pair.model, pair.primary, pair.shadow
