"""Passing: labels that servers hand to each other through the store, each of them held by one at a time.

Each function is a part of a transaction in which no other server writes. What a server does again, as it was not told
whether it was done, changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.control.store.replicas import GONE_SECONDS
from gnomon_server.control.store.rows import Execute
from gnomon_server.control.strays import Handed, Passed, Strays
from gnomon_server.wire.labels import Label, LabelTally

# Seconds after which nobody waits for a server that does not ask for them, and after which a name may come again.
STRAY_SECONDS: Final = 60.0
DONE_SECONDS: Final = 3600.0
# Bytes of labels in the store; and how many of those that go together a server holds to look for their requests.
MOST_BYTES: Final = 64 << 20
MOST_HELD: Final = 64
_NOW: Final = "extract(epoch FROM clock_timestamp())"
_COLUMNS: Final = 'id, model, "primary", shadow, asked, labels, since'
_DECODED: Final = msgspec.msgpack.Decoder(tuple[Label, ...])


def exchange(execute: Execute, replica: str, leaving: Sequence[Handed], held: Sequence[str] | None) -> Passed:
    """Passes strays on and takes others, except those that are held already; None: gives back what it was not told."""
    for one in leaving:
        execute("UPDATE strays SET labels = '' WHERE id = %s AND holder = %s", (one.old, replica))
    unknown = [one.left for one in leaving if one.left.labels and not _offered(execute, replica, one.left)]
    execute(f"DELETE FROM strays WHERE labels = '' AND since < {_NOW} - %s", (DONE_SECONDS,))  # noqa: S608
    if held is None:
        pairs = execute(
            "UPDATE strays SET holder = '' WHERE holder = %s AND labels <> '' RETURNING model, \"primary\", shadow",
            (replica,),
        )
        return Passed((), tuple(unknown), tuple(Pair(*pair) for pair in pairs))
    return Passed(_taken(execute, replica, held), tuple(unknown))


def waiting(execute: Execute) -> list[Comparison]:
    """Returns the labels that no server holds, each as a part of what is known of its pair."""
    rows = execute(
        'SELECT model, "primary", shadow, sum(number) FROM strays '
        "WHERE labels <> '' AND holder = '' GROUP BY model, \"primary\", shadow"
    )
    return [
        Comparison(Pair(model, primary, shadow), labels=LabelTally(waiting=int(number)))
        for model, primary, shadow, number in rows
    ]


def forget(execute: Execute, replica: str) -> None:
    """Drops what a server holds that does not know of it any more; in its totals that is waiting."""
    execute("UPDATE strays SET labels = '' WHERE holder = %s", (replica,))


def _offered(execute: Execute, replica: str, strays: Strays) -> bool:
    """Whether somebody else may know the requests, and is asked."""
    if execute("SELECT 1 FROM strays WHERE id = %s", (strays.id,)):
        return True
    asked = [*strays.asked, replica]
    (others, room, now), *_ = execute(
        "SELECT EXISTS (SELECT 1 FROM replicas WHERE id <> ALL(%s::text[]) "  # noqa: S608 - no input
        "AND seen > clock_timestamp() - make_interval(secs => %s)), "
        f"(SELECT coalesce(sum(octet_length(labels)), 0) < %s FROM strays), {_NOW}",
        (asked, GONE_SECONDS, MOST_BYTES),
    )
    since = strays.since or float(now)
    if not (others and room) or since < float(now) - STRAY_SECONDS:
        return False
    pair, blob = strays.pair, msgspec.msgpack.encode(strays.labels)
    execute(
        f"INSERT INTO strays ({_COLUMNS}, number) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",  # noqa: S608 - no input
        (strays.id, pair.model, pair.primary, pair.shadow, asked, blob, since, len(strays.labels)),
    )
    return True


def _taken(execute: Execute, replica: str, held: Sequence[str]) -> tuple[Strays, ...]:
    """Takes those that this server was not asked for, or that nobody else will be, or that it was not told it took."""
    rows = execute(
        "UPDATE strays SET holder = %s WHERE id IN (SELECT id FROM strays WHERE labels <> '' AND ("  # noqa: S608
        f"holder = '' AND (%s <> ALL(asked) OR since < {_NOW} - %s OR NOT EXISTS ("
        "SELECT 1 FROM replicas WHERE replicas.id <> ALL(asked) "
        "AND seen > clock_timestamp() - make_interval(secs => %s))) "
        "OR holder = %s AND id <> ALL(%s::text[])"
        f") ORDER BY since LIMIT %s) RETURNING {_COLUMNS}",
        (replica, replica, STRAY_SECONDS, GONE_SECONDS, replica, list(held), max(0, MOST_HELD - len(held))),
    )
    return tuple(
        Strays(name, Pair(model, primary, shadow), _DECODED.decode(labels), tuple(asked), float(since))
        for name, model, primary, shadow, asked, labels, since in rows
    )
