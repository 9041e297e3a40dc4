"""What lost servers counted: whatever happens in whatever order, everything is counted once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Protocol

import pytest
from databases import Database
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.control.store import Store
from gnomon_server.control.store.postgres import PostgresStore
from gnomon_server.control.store.sqlite import SqliteStore
from gnomon_server.errors import NotReady

PAIRS = (Pair("churn", 1, 2), Pair("churn", 1, 3))
Counts = dict[Pair, int]


class Kind(Protocol):
    """A kind of store, empty."""

    # How many servers share it.
    servers: int

    def opened(self, folder: Path) -> Store: ...

    def silent(self, store: Store, time: str) -> None:
        """Has a server be silent for some time."""


class Sqlite:
    servers = 1

    def opened(self, folder: Path) -> Store:
        return SqliteStore(folder)

    def silent(self, store: Store, time: str) -> None:
        """Nobody asks."""


class Postgres:
    servers = 3

    def __init__(self, database: Database) -> None:
        self.database = database
        database.run("DROP SCHEMA IF EXISTS gnomon CASCADE")

    def opened(self, folder: Path) -> Store:
        return PostgresStore(self.database.url, folder)

    def silent(self, store: Store, time: str) -> None:
        assert isinstance(store, PostgresStore)
        self.database.run(f"UPDATE replicas SET seen = now() - interval '{time}' WHERE id = '{store.replica}'")


@dataclass
class Server:
    """A server's memory, and what of it is in the store."""

    store: Store
    folder: Path
    counted: Counts = field(default_factory=dict)
    stored: Counts = field(default_factory=dict)
    # Of its lives under a name that was given up.
    before: Counts = field(default_factory=dict)
    fenced: bool = False

    def count(self, pair: Pair) -> None:
        self.counted[pair] = self.counted.get(pair, 0) + 1

    def save(self) -> None:
        # What is pending at one that is lost counts as dropped, and so is selected as well.
        rows = [Comparison(pair, outcomes=Outcomes(number - 1, pending=1)) for pair, number in self.counted.items()]
        if self.fenced:
            with pytest.raises(NotReady, match="start it anew"):
                self.store.save_tallies(rows)
        else:
            self.store.save_tallies(rows)
            self.stored = dict(self.counted)


def selected(rows: list[Comparison]) -> Counts:
    found: Counts = {}
    for row in rows:
        found[row.pair] = found.get(row.pair, 0) + row.outcomes.selected
    return found


def added(*parts: Counts) -> Counts:
    return {pair: total for pair in PAIRS if (total := sum(part.get(pair, 0) for part in parts))}


class World:
    """Servers, what befalls them, and what each of them must see."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind = kind
        folders = [folder / str(number) for number in range(kind.servers)]
        self.servers = [Server(kind.opened(one), one) for one in folders]

    def restart(self, server: Server) -> None:
        """As after SIGKILL: what was not stored is gone."""
        server.store.close()
        server.store = self.kind.opened(server.folder)
        if server.fenced:
            server.before, server.stored, server.fenced = added(server.before, server.stored), {}, False
        assert selected(server.store.tallies()) == server.stored
        server.counted = dict(server.stored)

    def lost(self, server: Server, time: str) -> None:
        """Has a server be silent for some time while the others look on; one of them decides, or was to."""
        self.kind.silent(server.store, time)
        for other in self.servers:
            if other is not server and not other.fenced:
                other.store.sync()
                other.store.fold()
                other.store.fold()

    def forget(self, server: Server) -> None:
        """Gives a server up for good, unless the right to decide is still its own or it stored nothing."""
        self.lost(server, "31 days")
        server.fenced = bool(server.stored) and any(
            one.store.sync().leads for one in self.servers if one is not server and not one.fenced
        )

    def check(self, server: Server) -> None:
        """A look after a flush, as every second; also a look without one never counts anything twice."""
        for _ in range(2):
            with suppress(NotReady):
                self.agrees(server)
            server.save()
        if not server.fenced:
            self.agrees(server)

    def agrees(self, server: Server) -> None:
        elsewhere = [part for one in self.servers if one is not server for part in (one.stored, one.before)]
        found = selected(server.store.tallies_elsewhere())
        assert added(found) == added(*elsewhere, server.before)

    def close(self) -> None:
        for server in self.servers:
            server.store.close()


def befall(world: World, what: str, number: int) -> None:
    server = world.servers[number % len(world.servers)]
    if what == "count":
        server.count(PAIRS[number % 2])
        server.count(PAIRS[0])
    elif what == "save":
        server.save()
    elif what == "restart":
        world.restart(server)
    elif what == "lost" and not server.fenced:
        world.lost(server, "2 hours")
    elif what == "forgotten" and not server.fenced:
        world.forget(server)
    elif what == "look":
        with suppress(NotReady):
            world.agrees(server)


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with Database() as running:
        yield running


EVENTS = ("count", "save", "count", "save", "restart", "lost", "lost", "forgotten", "look")


@pytest.mark.parametrize("shared", [False, True], ids=["sqlite", "postgres"])
@given(events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2)), min_size=10, max_size=40))
# One comes back after another was given up, whose counts must be in the sum that is made anew.
@example(
    events=[
        *(("lost", 1), ("count", 1), ("save", 1), ("forgotten", 1)),
        *(("count", 2), ("save", 2), ("lost", 2), ("save", 2)),
    ]
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_everything_is_counted_once_in_whatever_order_servers_get_lost_and_come_back(
    database: Database, tmp_path: Path, shared: bool, events: list[tuple[str, int]]
) -> None:
    rmtree(tmp_path / "state", ignore_errors=True)
    world = World(Postgres(database) if shared else Sqlite(), tmp_path / "state")
    try:
        for event in events:
            befall(world, *event)
        for server in world.servers:
            world.check(server)
    finally:
        world.close()
