"""Two servers that share one PostgreSQL, which hangs, dies and comes back."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import onnx_models as models
import pytest
from databases import Cable, Database
from load import Load
from servers import ServerProcess, eventually
from tallying import adds_up, mirrored

from gnomon_client import ClientError, Control, Unavailable
from gnomon_server.control.trial import Trial

ROW = np.ones((1, 3), np.float32)
CONFIG = """
grace = 1.0
[policy]
min_requests = 100
[mirror]
deadline = 60.0
[models.m.delivery]
steps = [{weight = 0.5, seconds = 0, requests = 20}, {weight = 0.6, seconds = 600}]
"""


class Pair:
    """Two servers, their database, the cable of the second one, and their control APIs."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.repository = folder / "models"
        self.database = database
        self.cable = Cable(database.port)
        urls = {"a": database.url, "b": self.cable.url}
        self.servers = [
            ServerProcess(self.repository, folder / name, "--store", url, config=CONFIG) for name, url in urls.items()
        ]
        self.controls: list[Control] = []


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for version in (1, 2):
        models.write(tmp_path / "models", "m", version, models.affine(1.0))
    with ExitStack() as stack:
        found = Pair(tmp_path, stack.enter_context(Database()))
        stack.callback(found.cable.close)
        # Both at once: they agree on who gives the versions their roles.
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, found.servers))
        for server in found.servers:
            found.controls.append(stack.enter_context(server.control()))
        yield found


def page(server: ServerProcess, name: str) -> str:
    with urllib.request.urlopen(f"http://{server.http}/{name}", timeout=20) as answer:
        return str(answer.read().decode())


def primary(control: Control) -> int:
    return int(control.models("m").models[0].route.primary)


def shadows(control: Control) -> list[int]:
    return [shadow.version for shadow in control.models("m").models[0].route.shadows]


def promoted(control: Control) -> bool:
    """Whether version 2 is the primary, after one more try to make it that."""
    with suppress(ClientError):
        control.promote("m", 2, force=True, reason="it is back")
    return primary(control) == 2


def compared(control: Control, shadow: int = 2) -> int:
    outcomes = control.report("m", shadow).outcomes
    assert adds_up(outcomes)
    return int(outcomes.compared)


def test_both_serve_one_route_and_judge_by_what_both_saw(pair: Pair) -> None:
    one, other = pair.controls
    # Who sees the list of processes sees no way into the database.
    assert not any("postgresql" in part for server in pair.servers for c in server.children() for part in c.cmdline())
    # One of them gave the versions their roles.
    assert [entry.action for entry in one.audit().entries] == ["discover"]
    for control in pair.controls:
        mirrored(control, "m", 2)
    with Load(pair.servers[0].grpc, "m", name="a") as first, Load(pair.servers[1].grpc, "m", name="b") as second:
        first.reach(70)
        second.reach(70)
    assert first.failures == second.failures == []
    total = first.ended + second.ended
    for control in pair.controls:
        eventually(lambda control=control: compared(control) == total)  # type: ignore[misc]
    change = one.promote("m", 2, force=True, reason="by what both saw")
    assert change.evidence.outcomes.compared == total
    eventually(lambda: primary(other) == 2)
    with pair.servers[1].client() as client:
        assert client.infer("m", ROW).version == "2"
    other.rollback("m")
    eventually(lambda: primary(one) == 1)


def test_while_the_database_hangs_both_answer_and_count_and_refuse_changes(pair: Pair) -> None:
    for control in pair.controls:
        mirrored(control, "m", 2)
    with Load(pair.servers[0].grpc, "m", name="a") as first, Load(pair.servers[1].grpc, "m", name="b") as second:
        first.reach(20)
        pair.database.suspend()
        for control in pair.controls:
            with pytest.raises(Unavailable, match="the database cannot be reached"):
                control.promote("m", 2, force=True, reason="now")
            assert primary(control) == 1
        first.reach(50)
        second.reach(50)
        pair.database.resume()
        first.reach(20)
    assert first.failures == second.failures == []
    # Nothing that was answered meanwhile is missing.
    for control in pair.controls:
        eventually(lambda control=control: compared(control) == first.ended + second.ended)  # type: ignore[misc]
    for control in pair.controls:
        eventually(lambda control=control: promoted(control))  # type: ignore[misc]


def test_one_that_is_cut_off_answers_on_and_follows_when_it_is_back(pair: Pair) -> None:
    near, far = pair.controls
    mirrored(near, "m", 2)
    with Load(pair.servers[1].grpc, "m", name="b") as load:
        pair.cable.cut()
        near.promote("m", 2, force=True, reason="the other is away")
        # Also what nobody asked for is decided, whichever of them decided before.
        models.write(pair.repository, "m", 3, models.affine(1.0))
        eventually(lambda: shadows(near) == [3])
        with pytest.raises(Unavailable, match="the database cannot be reached"):
            far.promote("m", 3, force=True, reason="against the other")
        assert (primary(far), shadows(far)) == (1, [2])
        load.reach(20)
        pair.cable.mend()
        eventually(lambda: (primary(far), shadows(far)) == (2, [3]))
        load.reach(20)
    assert load.failures == []
    assert {answer.version for answer in load.answers} == {1, 2}
    assert near.models("m").models[0].route == far.models("m").models[0].route
    assert near.audit() == far.audit()


def test_a_server_that_starts_while_the_database_is_away_answers_by_the_routes_that_it_knew(pair: Pair) -> None:
    near, far = pair.controls
    mirrored(far, "m", 2)
    before = {control: compared(control) for control in pair.controls}
    with Load(pair.servers[1].grpc, "m", name="b") as load:
        load.reach(20)
    eventually(lambda: compared(near) == before[near] + load.ended)
    name = (pair.servers[1].state / "replica").read_text()
    pair.servers[1].kill()
    pair.cable.cut()
    # What it does not hear of.
    near.promote("m", 2, force=True, reason="the other is away")
    pair.servers[1].start()
    assert any("it begins by the routes that it last knew" in line for line in pair.servers[1].log)
    with pair.servers[1].client() as client, pair.servers[1].control() as back:
        assert client.infer("m", ROW).version == "1"
        assert (primary(back), shadows(back)) == (1, [2])
        eventually(lambda: "the database cannot be reached" in back.models().store_trouble)
        assert page(pair.servers[1], "readyz").startswith("ready\nthe store is away since 20")
        assert "The store is away since 20" in page(pair.servers[1], "")
        with pytest.raises(Unavailable, match="the database cannot be reached"):
            back.promote("m", 2, force=True, reason="now")
        pair.cable.mend()
        eventually(lambda: primary(back) == 2)
        assert client.infer("m", ROW).version == "2"
        assert back.models().store_trouble == ""
        assert page(pair.servers[1], "readyz") == "ready\n"
        # What it counted in its life before is still there, under its old name.
        assert (pair.servers[1].state / "replica").read_text() != name
        assert pair.database.run(f"SELECT count(*) FROM tallies WHERE replica = '{name}'") == [(1,)]
        assert promotable(back)


def promotable(control: Control) -> bool:
    """Whether the server changes routes again."""
    return bool(control.rollback("m", reason="it is back").after.primary == 1)


def lost(pair: Pair, name: str) -> None:
    """Has the database know a server as silent for two hours, until its rows are laid aside."""

    def folded() -> bool:
        pair.database.run(f"UPDATE replicas SET seen = now() - interval '2 hours' WHERE id = '{name}'")
        return pair.database.run(f"SELECT count(*) FROM tallies WHERE replica = '{name}'") == [(0,)]

    eventually(folded)


def test_what_a_lost_server_counted_stays_and_is_its_own_again_when_it_is_back(pair: Pair) -> None:
    for control in pair.controls:
        mirrored(control, "m", 2)
    with Load(pair.servers[0].grpc, "m", name="a") as first, Load(pair.servers[1].grpc, "m", name="b") as second:
        first.reach(20)
        second.reach(20)
    total = first.ended + second.ended
    names = [(server.state / "replica").read_text() for server in pair.servers]
    for control in pair.controls:
        eventually(lambda control=control: compared(control) == total)  # type: ignore[misc]
    # Cut off, it counts on; taken for lost meanwhile, it is added up once when it is back.
    pair.cable.cut()
    with Load(pair.servers[1].grpc, "m", name="c") as third:
        lost(pair, names[1])
        assert compared(pair.controls[0]) == total
        third.reach(20)
    pair.cable.mend()
    total += third.ended
    for control in pair.controls:
        eventually(lambda control=control: compared(control) == total)  # type: ignore[misc]
    # So is one that is killed: by the time it is back, nobody has read its rows for hours.
    pair.servers[0].kill()
    lost(pair, names[0])
    assert pair.database.run("SELECT count(*) FROM folded") != [(0,)]
    eventually(lambda: compared(pair.controls[1]) == total)
    pair.servers[0].start()
    with pair.servers[0].control() as control:
        mirrored(control, "m", 2)
    with Load(pair.servers[0].grpc, "m", name="d") as fourth:
        fourth.reach(20)
        assert fourth.failures == []
    total += fourth.ended
    assert pair.database.run("SELECT count(*) FROM folded") == [(0,)]
    assert (pair.servers[0].state / "replica").read_text() == names[0]
    with pair.servers[0].control() as control:
        for one in (control, pair.controls[1]):
            eventually(lambda one=one: settled(one) == total)  # type: ignore[misc]


def settled(control: Control) -> int:
    """Requests that were selected and are not on their way."""
    outcomes = control.report("m", 2).outcomes
    assert adds_up(outcomes)
    return int(outcomes.selected - outcomes.pending)


def test_when_the_one_that_decides_dies_the_other_does(pair: Pair) -> None:
    leaders = pair.database.run("SELECT holder FROM lease")
    names = [(server.state / "replica").read_text() for server in pair.servers]
    leader = names.index(str(leaders[0][0]))
    pair.servers[leader].kill()
    survivor = pair.controls[1 - leader]
    models.write(pair.repository, "m", 3, models.affine(1.0))
    eventually(lambda: 3 in shadows(survivor))
    # It is back, and finds what was decided.
    pair.servers[leader].start()
    with pair.servers[leader].control() as control:
        eventually(lambda: 3 in shadows(control))
        assert [entry.action for entry in control.audit("m").entries] == ["discover", "discover"]


def test_a_step_ends_by_what_the_canary_answered_at_a_server_that_is_killed(pair: Pair) -> None:
    near, far = pair.controls
    near.deliver("m", 2)
    near.deliver("m", action="pause")

    def answered() -> int:
        bodies = [cast("bytes", body) for (body,) in pair.database.run("SELECT body FROM gnomon.trials")]
        trials = [trial for body in bodies for trial in msgspec.msgpack.decode(body, type=list[Trial])]
        return sum(trial.by_canary.side(0.0).requests for trial in trials)

    eventually(lambda: far.models("m").models[0].route.canary.delivery.paused)
    with Load(pair.servers[1].grpc, "m", name="b") as load:
        load.reach(100)
        eventually(lambda: answered() >= 20)
    pair.servers[1].kill()
    near.deliver("m", action="resume")
    # Nobody has asked this server anything.
    eventually(lambda: near.models("m").models[0].route.canary.delivery.step == 2)
    assert load.failures == []
