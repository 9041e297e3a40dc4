"""Rows of the tables, as values: in SQL that SQLite and PostgreSQL both understand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from gnomon_server.control import times
from gnomon_server.control.audit.chain import Sealed
from gnomon_server.control.audit.records import AuditRecord
from gnomon_server.control.comparison import Comparison
from gnomon_server.control.routes import Route
from gnomon_server.control.trial import Trial
from gnomon_server.errors import Refused

Kind = TypeVar("Kind")
_SEALED: Final = "id, model, body, hash, signed_by, signature"


class Execute(Protocol):
    """Runs one statement, with %s in the place of each value, in a transaction; returns the rows."""

    def __call__(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Returns the rows, or none where a statement gives none."""
        ...


def stored_routes(execute: Execute) -> dict[str, Route]:
    """Returns the routes of all models by name."""
    rows = execute("SELECT route FROM routes ORDER BY model")
    routes = [_parsed(msgspec.json.decode, text, Route) for (text,) in rows]
    return {route.model: route for route in routes}


def stored_entries(execute: Execute, after: int, limit: int) -> list[Sealed]:
    """Returns the entries of the audit as they are kept, oldest first, that follow one with this number."""
    rows = execute(f"SELECT {_SEALED} FROM audit WHERE id > %s ORDER BY id LIMIT %s", (after, limit))  # noqa: S608
    return [Sealed(*row) for row in rows]


def store_entry(execute: Execute, entry: Sealed) -> None:
    """Stores an entry of the audit."""
    execute(
        f"INSERT INTO audit ({_SEALED}) VALUES (%s, %s, %s, %s, %s, %s)",  # noqa: S608 - no input
        (entry.id, entry.model, entry.body, entry.hash, entry.key, entry.signature),
    )


def store_tally(execute: Execute, table: str, replica: str, row: Comparison) -> None:
    """Stores totals of a pair in place of earlier ones of the same server."""
    pair = row.pair
    # MessagePack keeps every float as it is; JSON has no infinities.
    execute(
        f'INSERT INTO {table} (model, "primary", shadow, replica, comparison, updated_at) '  # noqa: S608 - no input
        'VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (model, "primary", shadow, replica) '
        "DO UPDATE SET comparison = excluded.comparison, updated_at = excluded.updated_at",
        (pair.model, pair.primary, pair.shadow, replica, msgspec.msgpack.encode(row), utc_now()),
    )


def stored_comparison(blob: bytes) -> Comparison:
    """Returns a comparison as it was stored; raises Refused if it cannot be read."""
    return _parsed(msgspec.msgpack.decode, blob, Comparison)


def stored_trials(rows: Iterable[tuple[bytes]]) -> list[Trial]:
    """Returns the trials of servers as they were stored; raises Refused if one cannot be read."""
    return [trial for (body,) in rows for trial in _parsed(msgspec.msgpack.decode, body, list[Trial])]


def utc_now() -> str:
    """Returns the present time by RFC 3339."""
    return times.rfc3339(times.utc_now(), "milliseconds")


def latest_records(execute: Execute, model: str, limit: int) -> list[AuditRecord]:
    """Returns the latest records of the audit of one model or, without a name, of all; newest first."""
    rows = execute(
        f"SELECT {_SEALED} FROM audit WHERE model = %s OR %s ORDER BY id DESC LIMIT %s",  # noqa: S608 - no input
        (model, not model, limit),
    )
    return [Sealed(*row).record for row in rows]


def newest_record(execute: Execute, model: str) -> AuditRecord | None:
    """Returns the newest record of the audit of a model."""
    return next(iter(latest_records(execute, model, 1)), None)


def stored_route(execute: Execute, model: str) -> Route:
    """Returns the route of a model, which is empty before there is one."""
    rows = execute("SELECT route FROM routes WHERE model = %s", (model,))
    return _parsed(msgspec.json.decode, rows[0][0], Route) if rows else Route(model)


def _parsed(decode: Callable[..., Any], text: str | bytes, kind: type[Kind]) -> Kind:
    try:
        value: Kind = decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise Refused(f"the state holds a row that cannot be read: {error}") from None
    return value
