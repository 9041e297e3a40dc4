"""Labels that servers pass on to each other: each is counted once, whatever happens to a server or to the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

import pytest
from databases import Database
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.relay import MOST_HELD, Relay
from gnomon_server.control.store import passing
from gnomon_server.control.store.postgres import PostgresStore
from gnomon_server.control.store.sqlite import SqliteStore
from gnomon_server.control.strays import Handed, Passed
from gnomon_server.control.worker import Adopting
from gnomon_server.errors import NotReady
from gnomon_server.wire.labels import Label, LabelTally, PairLabels
from gnomon_server.wire.messages import WorkerReport

PAIR = Pair("m", 1, 2)


class Worker:
    """A shadow worker that knows some requests, and answers when it is told to; ids begin with its name."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        self._name, self._epoch = name, uuid4().hex
        self._ledger = ledger
        self._asked: list[tuple[Sequence[Label], Adopting]] = []
        self._joined = self._forwarded = 0

    def adopt(self, model: str, version: int, labels: Sequence[Label], left: Adopting) -> None:
        assert (model, version) == (PAIR.model, PAIR.shadow)
        self._asked.append((labels, left))

    def report(self, strays: Sequence[Label] = ()) -> None:
        self._forwarded += len(strays)
        tally = LabelTally("basis", requests=1, joined=self._joined, forwarded=self._forwarded)
        found = PairLabels(PAIR.model, PAIR.primary, PAIR.shadow, tally, tuple(strays))
        self._ledger.worker_reported(WorkerReport(self._epoch, (), (), (), 0, (), 0, labels=(found,)))

    def answer(self) -> None:
        asked, self._asked = self._asked, []
        for labels, left in asked:
            unknown = [label for label in labels if not label.id.startswith(self._name)]
            self._joined += len(labels) - len(unknown)
            self.report()
            left(unknown)

    def die(self) -> None:
        self._ledger.epoch_ended(self._epoch)
        asked, self._asked = self._asked, []
        for labels, left in asked:
            left(labels)


class Doubtful(PostgresStore):
    """A store that may do what it is told and then say that it failed."""

    doubtful = False

    def save_tallies(
        self, rows: Iterable[Comparison], leaving: Sequence[Handed] = (), held: Sequence[str] | None = None
    ) -> Passed:
        passed = super().save_tallies(rows, leaving, held)
        if self.doubtful:
            raise NotReady("the connection broke")
        return passed


class Server:
    """One life of control after the other, on one state folder."""

    def __init__(self, name: str, url: str, folder: Path) -> None:
        self._name, self._url, self._folder = name, url, folder
        self._begin()

    def _begin(self) -> None:
        self.store = Doubtful(self._url, self._folder / self._name)
        self.ledger = Ledger.restore(self.store.tallies())
        self.worker = Worker(self._name, self.ledger)
        self.relay = Relay(self.store, self.ledger, self.worker)
        self.store.sync()

    def worker_died(self) -> None:
        self.worker.die()
        self.worker = Worker(self._name, self.ledger)
        self.relay._fleet = self.worker

    def killed(self) -> None:
        self.store.close()
        self._begin()

    async def flush(self, doubtful: bool = False, last: bool = False) -> None:
        self.store.doubtful = doubtful
        if doubtful:
            with pytest.raises(NotReady):
                await self.relay.flush(last)
        else:
            await self.relay.flush(last)

    async def stopped(self) -> None:
        self.worker.die()
        await self.flush(last=True)
        self.killed()


class World:
    """Servers on one database, and the labels that were stored as received."""

    def __init__(self, database: Database, folder: Path, names: str = "abc") -> None:
        database.run("DROP SCHEMA IF EXISTS gnomon CASCADE")
        self.database = database
        self.servers = [Server(name, database.url, folder) for name in names]
        self.given = self.strange = 0

    async def give(self, server: Server, about: str) -> None:
        """Has a label come to a server whose worker does not know its request; a flush keeps that for good."""
        self.given += 1
        server.worker.report([Label(f"{about}{self.given}", ("1",))])
        await server.flush()

    async def befall(self, what: str, number: int, other: int) -> None:
        server = self.servers[number]
        if what == "give":
            # About a request of another server, or of none.
            about = "abcx".replace("abc"[number], "")[other]
            self.strange += about == "x"
            await self.give(server, about)
        elif what in ("flush", "doubtful"):
            await server.flush(doubtful=what == "doubtful")
        elif what == "answer":
            server.worker.answer()
        elif what == "die":
            server.worker_died()
        elif what == "killed":
            server.killed()
        elif what == "stopped":
            await server.stopped()
        elif what == "aged":
            self.database.run("UPDATE strays SET since = since - 100")

    async def settle(self) -> None:
        """Has everybody look until nothing is on its way."""
        for _ in range(8 * len(self.servers)):
            for server in self.servers:
                server.store.sync()
                await server.flush()
                server.worker.answer()

    def counted(self, server: Server) -> LabelTally:
        """What a server sees."""
        server.ledger.counted_elsewhere(server.store.tallies_elsewhere())
        return server.ledger.totals(PAIR).labels

    def close(self) -> None:
        for server in self.servers:
            server.store.close()


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with Database() as running:
        yield running


@pytest.fixture
def world(database: Database, tmp_path: Path) -> Iterator[World]:
    found = World(database, tmp_path)
    yield found
    found.close()


def seen(tally: LabelTally) -> dict[str, int]:
    names = ("joined", "unknown", "waiting")
    return {name: getattr(tally, name) for name in names if getattr(tally, name)}


async def test_a_label_is_joined_by_the_server_that_knows_its_request(world: World) -> None:
    await world.give(world.servers[0], "c")
    for server in world.servers:
        assert seen(world.counted(server)) == {"waiting": 1}
    await world.settle()
    for server in world.servers:
        assert seen(world.counted(server)) == {"joined": 1}


async def test_a_label_that_nobody_knows_is_unknown_once(world: World) -> None:
    await world.give(world.servers[0], "x")
    await world.settle()
    for server in world.servers:
        assert seen(world.counted(server)) == {"unknown": 1}


async def test_a_server_that_does_not_ask_for_labels_holds_nobody_up_for_long(world: World) -> None:
    first, second, third = world.servers
    await world.give(first, "x")
    await second.flush()
    second.worker.answer()
    # The third lives, but never looks.
    for _ in range(3):
        for server in (first, second):
            third.store.sync()
            await server.flush()
            server.worker.answer()
    assert seen(world.counted(first)) == {"waiting": 1}
    world.database.run("UPDATE strays SET since = since - 100")
    for server in (first, second, first, second):
        await server.flush()
        server.worker.answer()
    assert seen(world.counted(first)) == {"unknown": 1}


async def test_a_server_whose_worker_does_not_answer_takes_no_more_than_it_can_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "MOST_HELD", 2)
    first, second, third = world.servers
    for _ in range(5):
        await world.give(first, "b")
    for _ in range(3):
        await second.flush()
    assert world.database.run("SELECT count(*) FROM strays WHERE holder <> ''") == [(2,)]
    for _ in range(3):
        second.worker.answer()
        await second.flush()
    assert seen(world.counted(third)) == {"joined": 5}


async def test_alone_a_server_knows_at_once_that_nobody_does(database: Database, tmp_path: Path) -> None:
    world = World(database, tmp_path, "a")
    await world.give(world.servers[0], "x")
    assert seen(world.counted(world.servers[0])) == {"unknown": 1}
    world.close()


async def test_labels_beyond_what_may_be_held_are_unknown(tmp_path: Path) -> None:
    ledger = Ledger()
    store = SqliteStore(tmp_path)
    worker = Worker("a", ledger)
    relay = Relay(store, ledger, worker)
    worker.report([Label(str(number), ("1",)) for number in range(MOST_HELD)])
    worker.report([Label("more", ("1",))])
    relay._collect()
    assert seen(ledger.totals(PAIR).labels) == {"waiting": MOST_HELD, "unknown": 1}
    store.close()


EVENTS = ("give", "give", "flush", "flush", "answer", "answer", "doubtful", "die", "killed", "stopped", "aged")


# The one that took a label dies before and after it was told, or before its worker answers.
@example(events=[("give", 0, 1), ("doubtful", 1, 0), ("flush", 1, 0), ("answer", 1, 0), ("flush", 1, 0)])
@example(events=[("give", 0, 1), ("doubtful", 1, 0), ("killed", 1, 0)])
@example(events=[("give", 0, 1), ("doubtful", 1, 0), ("stopped", 1, 0)])
@example(events=[("give", 0, 1), ("flush", 1, 0), ("answer", 1, 0), ("doubtful", 1, 0), ("killed", 1, 0)])
@example(events=[("give", 0, 0), ("give", 1, 2), ("doubtful", 0, 0), ("doubtful", 1, 0), ("answer", 1, 0)])
@example(events=[("give", 0, 2), ("flush", 1, 0), ("answer", 1, 0), ("doubtful", 1, 0), ("flush", 2, 0)])
@given(
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2), st.integers(0, 2)), min_size=10, max_size=40)
)
# Without shrinking, which takes longer than a test may.
@settings(
    max_examples=25,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_each_label_is_counted_once_in_whatever_order_servers_die_and_the_store_fails(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[tuple[str, int, int]]
) -> None:
    # However slow the test is, nobody is gone.
    monkeypatch.setattr(passing, "GONE_SECONDS", 600.0)
    rmtree(tmp_path / "state", ignore_errors=True)
    world = World(database, tmp_path / "state")

    async def run() -> None:
        for event in events:
            await world.befall(*event)
        await world.settle()

    try:
        asyncio.run(run())
        found = [seen(world.counted(server)) for server in world.servers]
        assert found == [found[0]] * 3
        assert Counter(found[0]).total() == world.given
        assert "waiting" not in found[0]
        if not {what for what, _, _ in events} & {"killed", "stopped", "die", "aged"}:
            assert found[0].get("unknown", 0) == world.strange
        assert database.run("SELECT count(*) FROM strays WHERE labels <> ''") == [(0,)]
    finally:
        world.close()
