"""A delivery: from shadow by larger and larger shares to primary, over the death of the server."""

from __future__ import annotations

import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path

import msgspec
import onnx_models as models
from load import Load, leading
from servers import ServerProcess, eventually

from gnomon_protos import control_pb2
from gnomon_server.control.trial import Side, Trial

CONFIG = """
grace = 1.0
[policy]
tolerance = 0.05
min_requests = 100
min_duration = 0
block = 1
dedupe = false
[models.m.delivery]
steps = [{weight = 0.2, seconds = 0, requests = 20}, {weight = 0.6, seconds = 0.5, requests = 40}]
[models.weak]
max_batch = 1
[models.weak.delivery]
steps = [{weight = 0.5, seconds = 0, requests = 20}]
[models.strays.delivery]
steps = [{weight = 0.5, seconds = 0, requests = 20}]
"""


def route(server: ServerProcess, model: str = "m") -> control_pb2.Route:
    with server.control() as control:
        found = control_pb2.Route()
        found.CopyFrom(control.models(model).models[0].route)
        return found


def kept(state: Path, model: str) -> Side | None:
    """What the store has of a model's canary, once its answers are counted."""
    with closing(sqlite3.connect(f"file:{state / 'gnomon.sqlite'}?mode=ro", uri=True)) as connection:
        bodies = connection.execute("SELECT body FROM trials").fetchall()
    trials = [trial for (body,) in bodies for trial in msgspec.msgpack.decode(body, type=list[Trial])]
    return next((trial.by_canary.side(0.0) for trial in trials if trial.model == model), None)


def page(server: ServerProcess, name: str) -> set[str]:
    with urllib.request.urlopen(f"http://{server.http}/{name}", timeout=10) as answer:
        return set(answer.read().decode().splitlines())


def is_taken_back_once_it_is_the_primary(server: ServerProcess, model: str, reason: str) -> None:
    """Delivers a version that goes wrong on what is asked only afterwards."""
    assert server.gnomon("deliver", model, "2").returncode == 0
    with Load(server.grpc, model, leading(0.0, 2)) as load:
        eventually(lambda: route(server, model).primary == 2, seconds=60)
    assert load.failures == []
    assert [shadow.version for shadow in route(server, model).shadows] == [1]
    with Load(server.grpc, model, leading(1.0, 2)) as load:
        eventually(lambda: route(server, model).primary == 1, seconds=60)
        load.reach(1)
    with server.control() as control:
        entry = control.audit(model).entries[0]
    assert (entry.actor, entry.action, entry.version) == ("gnomon", "rollback", 1)
    assert entry.reason.startswith(reason)


def test_a_delivery_that_the_server_dies_in_goes_on_to_the_primary_without_a_failed_request(tmp_path: Path) -> None:
    for version in (1, 2):
        models.write(tmp_path / "models", "m", version, models.affine(1.0))
        models.write(tmp_path / "models", "weak", version, models.raising() if version == 2 else models.affine(1.0))
        models.write(
            tmp_path / "models", "strays", version, models.stepped(1.0) if version == 2 else models.affine(1.0)
        )
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server:
        begun = server.gnomon("deliver", "m", "2")
        assert "version 2 answers 20% of requests as canary, step 1" in begun.stdout, begun
        assert "step 1, paused" in server.gnomon("deliver", "m", "pause").stdout
        delivered = 'gnomon_model_name="m",gnomon_model_version="2"'
        assert {
            f"gnomon_canary_share{{{delivered}}} 0.2",
            f"gnomon_delivery_step{{{delivered}}} 1",
            f'gnomon_delivery_state{{{delivered},gnomon_state="paused"}} 1',
            f'gnomon_delivery_state{{{delivered},gnomon_state="stuck"}} 0',
        } <= page(server, "metrics")
        eventually(lambda: kept(tmp_path / "state", "m") == Side())
        with Load(server.grpc, "m") as load:
            load.reach(300)
        answered = sum(answer.version == 2 for answer in load.answers)
        assert 20 <= answered < 300
        before = route(server)
        assert (before.canary.weight, before.canary.delivery.paused) == (0.2, True)
        eventually(lambda: kept(tmp_path / "state", "m") == Side(answered))
        server.kill()
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server:
        assert route(server) == before
        assert server.gnomon("deliver", "m", "resume").returncode == 0
        # The canary answered before its server died what the first step asks for, and nothing yet for the second.
        eventually(lambda: route(server).canary.delivery.step == 2)
        with Load(server.grpc, "m") as load:
            eventually(lambda: route(server).primary == 2, seconds=60)
            load.reach(20)
        assert load.failures == []
        after = route(server)
        assert (after.previous, after.HasField("canary")) == (1, False)
        with server.control() as control:
            changes = [(entry.action, entry.actor == "gnomon") for entry in control.audit("m").entries]
        assert changes == [
            ("promote", True),
            ("deliver", True),
            ("deliver", False),
            ("deliver", False),
            ("deliver", False),
            ("discover", True),
        ]
        is_taken_back_once_it_is_the_primary(server, "weak", "the new primary fails on ")
        is_taken_back_once_it_is_the_primary(
            server, "strays", "the old primary is its shadow, and the verdict is 'reject'"
        )
        for words, message in (
            (("m", "next"), "model 'm' delivers no version"),
            (("m", "abort"), "model 'm' has no canary"),
            (("m", "faster"), "expected a version, or one of next, pause, resume, abort, received 'faster'"),
            (("m", "9"), "model 'm': version '9' not found"),
        ):
            refused = server.gnomon("deliver", *words)
            assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused
            assert message in refused.stderr


def test_a_canary_whose_failures_came_before_the_death_of_its_server_is_taken_back_by_the_next(tmp_path: Path) -> None:
    models.write(tmp_path / "models", "weak", 1, models.affine(1.0))
    models.write(tmp_path / "models", "weak", 2, models.raising())
    lenient = CONFIG + "[models.weak.canary]\nrollback = false\n"
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=lenient) as server:
        assert server.gnomon("canary", "weak", "2", "--weight", "50").returncode == 0
        eventually(lambda: kept(tmp_path / "state", "weak") == Side())
        with Load(server.grpc, "weak", leading(1.0, 2)) as load:
            load.reach(400)
        failed = len(load.failures)
        answered = sum(answer.version == 2 for answer in load.answers) + failed
        eventually(lambda: kept(tmp_path / "state", "weak") == Side(answered, failed))
        server.kill()
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server:
        eventually(lambda: not route(server, "weak").HasField("canary"))
        with server.control() as control:
            entry = control.audit("weak").entries[0]
    assert (entry.actor, entry.action, entry.version) == ("gnomon", "rollback", 2)
    assert entry.reason.startswith(f"the canary fails on {failed:,} of {answered:,} requests, and the primary on 0 of ")
