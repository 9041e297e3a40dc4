"""kill -9 of the whole server, and what is there when it comes back."""

from __future__ import annotations

import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import onnx_models as models
import psutil
import pytest
from load import Load
from servers import ServerProcess, eventually
from tallying import adds_up, at_rest, mirrored

from gnomon_client import ClientError, Control
from gnomon_protos import control_pb2 as pb
from gnomon_server.control.comparison import Comparison, Outcomes

CONFIG = "grace = 1.0\n[mirror]\ndeadline = 60.0\n"
ROW = np.ones((1, 3), np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for version in (1, 2):
        models.write(folder, "m", version, models.affine(1.0))
    return folder


def flushed(state: Path) -> Outcomes:
    """What the store has of the only pair, read beside the server or after its death."""
    with closing(sqlite3.connect(state / "gnomon.sqlite")) as connection:
        rows = connection.execute("SELECT comparison FROM tallies").fetchall()
    found = [msgspec.msgpack.decode(blob, type=Comparison).outcomes for (blob,) in rows]
    return found[0] if found else Outcomes()


def values(outcomes: pb.Outcomes) -> Outcomes:
    return Outcomes(**{name: getattr(outcomes, name) for name in Outcomes.__dataclass_fields__})


def without_versions(status: pb.ListModelsResponse) -> list[pb.Route]:
    return [model.route for model in status.models]


def test_tallies_up_to_the_last_flush_survive_and_what_was_pending_is_dropped(repository: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    server = ServerProcess(repository, state, config=CONFIG).start()
    with server.control() as control:
        mirrored(control, "m")
        (worker,) = server.children("gnomon_server.shadow")
        with Load(server.grpc, "m", name="before") as load:
            load.reach(100)
            eventually(lambda: flushed(state).compared > 0)
            # From here on everything is pending, and a flush says so.
            worker.suspend()
            eventually(lambda: flushed(state).pending > 0)
            load.reach(50)
            server.kill()
    stored = flushed(state)
    assert stored.pending > 0
    # The requests in flight when the server died are the only ones that failed.
    assert all("UNAVAILABLE" in text for _, text in load.failures)
    assert stored.selected <= len(load.answers) + 3

    with ServerProcess(repository, state, config=CONFIG) as again, again.control() as control:
        found = control.report("m").outcomes
        assert adds_up(found)
        assert values(found) == stored.closed()
        mirrored(control, "m")
        with Load(again.grpc, "m", name="after") as load:
            load.reach(100)
        assert load.failures == []
        found = at_rest(control, "m", stored.selected + load.ended)
        assert found.compared == stored.compared + load.ended
        assert found.dropped == stored.dropped + stored.pending


def test_routes_and_audit_are_as_they_were(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "m", 3, models.affine(1.0))
    models.write(repository, "other", 7, models.affine(1.0))
    server = ServerProcess(repository, tmp_path / "state", config=CONFIG).start()
    with server.control() as control:
        control.promote("m", 2, force=True, reason="it is better")
        control.shadow("m", 3, 0.25, reason="a little")
        routes, audit = without_versions(control.models()), control.audit()
        server.kill()
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as again, again.control() as control:
        assert without_versions(control.models()) == routes
        assert control.audit() == audit
        with again.client() as client:
            assert client.infer("m", ROW).version == "2"
            # The old primary is warm again, too.
            assert client.infer("m", ROW, version=1).version == "1"
        change = control.rollback("m")
    assert (change.after.generation, change.after.primary) == (change.before.generation + 1, 1)
    assert audit.entries[1].evidence.shadow == 2


def test_when_control_alone_is_killed_its_children_end_and_the_state_is_free(repository: Path, tmp_path: Path) -> None:
    server = ServerProcess(repository, tmp_path / "state", config=CONFIG).start()
    children = server.children()
    assert len(children) == 2
    psutil.Process(server.pid).kill()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (2, [])
    server.kill()
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as again, again.client() as client:
        assert client.infer("m", ROW).version == "1"


def test_a_server_that_dies_amid_promotions_comes_back_with_the_old_route_or_the_new_one(
    repository: Path, tmp_path: Path
) -> None:
    chance = random.Random(20260101)
    acknowledged = 0
    for _ in range(6):
        with ServerProcess(repository, tmp_path / "state", config=CONFIG) as server, server.control() as control:
            newest, status = control.audit("m", 1).entries[0], control.models("m").models[0]
            assert newest.after == status.route
            assert acknowledged <= status.route.generation <= acknowledged + 1 or not acknowledged
            assert status.route.primary in (1, 2)
            assert status.route.previous in (0, 3 - status.route.primary)
            with server.client() as client:
                assert client.infer("m", ROW).version == str(status.route.primary)
            promotions = Promotions(control, status.route.primary)
            promotions.reach(chance.randint(1, 5))
            # Somewhere in the next one.
            promotions.ended.wait(chance.uniform(0, 0.03))
            server.kill()
            acknowledged = promotions.end()


class Promotions:
    """Promotes one version after the other in a thread, until the server is gone."""

    def __init__(self, control: Control, primary: int) -> None:
        self._control, self._primary = control, primary
        self._generation = 0
        self._made = 0
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def reach(self, count: int) -> None:
        """Waits until this many are made."""
        eventually(lambda: self._made >= count, every=0.002)

    def end(self) -> int:
        """Returns the last generation that the server acknowledged."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self._generation

    def _run(self) -> None:
        try:
            while True:
                self._primary = 3 - self._primary
                change = self._control.promote("m", self._primary, force=True, reason="again")
                self._generation, self._made = change.after.generation, self._made + 1
        except ClientError:
            self.ended.set()
