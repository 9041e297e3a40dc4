"""A canary: a share of the requests, by key, without a request that fails."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Iterator

import numpy as np
import onnx_models as models
import pytest
from load import Load, leading
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Client, Control, FailedPrecondition, InvalidArgument, NotFound, Unavailable

CONFIG = """
grace = 1.0
workers = 2
[models.m.canary]
key = "x-user-id"
rollback = false
[models.many]
versions = {latest = 2}
[models.weak]
max_batch = 1
[models.weak.canary]
latency = 0.0
"""
SCALES = {1: 1.0, 2: 2.0}
ROW = np.ones((1, 3), np.float32)
USERS = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("canary")
    for version, scale in SCALES.items():
        models.write(folder / "models", "m", version, models.affine(scale))
    models.write(folder / "models", "weak", 1, models.affine(1.0))
    models.write(folder / "models", "weak", 2, models.raising())
    models.write(folder / "models", "weak", 3, models.affine(1.0, width=4))
    for version in (1, 2, 3):
        models.write(folder / "models", "many", version, models.affine(float(version)))
    with ServerProcess(folder / "models", folder / "state", config=CONFIG) as running:
        yield running


@pytest.fixture
def control(server: ServerProcess) -> Iterator[Control]:
    """The control API of a server whose model m has version 2 in the shadow of version 1."""
    with server.control() as opened:
        if opened.models("m").models[0].route.HasField("canary"):
            opened.canary("m", off=True)
        yield opened


def version_for(client: Client, user: int) -> int:
    result = client.infer("m", ROW, metadata={"x-user-id": f"user-{user}"})
    np.testing.assert_array_equal(result["y"], ROW * np.float32(SCALES[int(result.version)]))
    return int(result.version)


def test_no_request_fails_while_canaries_come_and_go_and_only_what_the_primary_answers_is_mirrored(
    server: ServerProcess, control: Control
) -> None:
    mirrored(control, "m")
    with Load(server.grpc, "m", pace=0.001) as load:
        for weight in (0.2, 0.7, 1.0, 0.4):
            load.reach(100)
            control.canary("m", 2, weight)
        load.reach(200)
        status = {version.version: version for version in control.models("m").models[0].versions}
        assert (status[2].role, status[2].state, status[2].verdict) == ("canary", "ready", "keep watching")
        control.canary("m", off=True)
        load.reach(100)
    assert load.failures == []
    for answer in load.answers:
        np.testing.assert_array_equal(answer.y, answer.x * np.float32(SCALES[answer.version]))
    by_primary = sum(answer.version == 1 for answer in load.answers)
    assert 0 < by_primary < len(load.answers)
    assert at_rest(control, "m", by_primary).selected == by_primary
    assert control.models("m").models[0].versions[1].role == "shadow"


def test_the_same_users_meet_the_canary_as_its_weight_grows(server: ServerProcess, control: Control) -> None:
    met: set[int] = set()
    with server.client() as client:
        for weight in (0.1, 0.5):
            change = control.canary("m", 2, weight)
            assert (change.after.canary.version, change.after.canary.weight, change.after.primary) == (2, weight, 1)
            first = {user for user in range(USERS) if version_for(client, user) == 2}
            assert first >= met
            assert abs(len(first) - USERS * weight) < 5 * math.sqrt(USERS * weight * (1 - weight))
            assert first == {user for user in range(USERS) if version_for(client, user) == 2}
            met = first
        control.canary("m", off=True, reason="seen enough")
        assert {version_for(client, user) for user in met} == {1}
    (entry, *_) = control.audit("m").entries
    assert (entry.action, entry.version, entry.reason) == ("canary", 2, "seen enough")


def test_a_frontend_that_comes_anew_knows_the_canary(server: ServerProcess, control: Control) -> None:
    control.canary("m", 2, 1.0)
    for victim in server.children("gnomon_server.serving"):
        victim.kill()
        # A version is ready once every frontend has it, the new one among them.
        eventually(
            lambda pid=victim.pid: (  # type: ignore[misc]
                len({one.pid for one in server.children("gnomon_server.serving")} - {pid}) == 2
                and control.models("m").models[0].versions[1].state == "ready"
            )
        )
    with server.client() as client:
        assert {version_for(client, user) for user in range(20)} == {2}


def test_what_cannot_be_a_canary_is_refused(control: Control) -> None:
    with pytest.raises(FailedPrecondition, match="model 'm' version '1' is the primary and cannot be its canary"):
        control.canary("m", 1)
    with pytest.raises(NotFound, match="model 'm': version '7' not found: expected one of"):
        control.canary("m", 7)
    with pytest.raises(InvalidArgument, match=r"model 'm': weight: expected a share in \(0, 1\], received 5"):
        control.canary("m", 2, 5)
    with pytest.raises(NotFound, match="model 'm' has no canary"):
        control.canary("m", off=True)


def test_a_canary_that_fails_its_users_is_taken_back(server: ServerProcess, control: Control) -> None:
    control.canary("weak", 2, 0.3)
    failing = leading(1.0, 2)
    with Load(server.grpc, "weak", failing) as load:
        eventually(lambda: not control.models("weak").models[0].route.HasField("canary"), seconds=60)
        answered = load.ended
        load.reach(50)
    # One may have been on its way.
    late = [request_id for request_id, _ in load.failures if int(request_id.rpartition("-")[2]) > answered / 3 + 20]
    assert load.failures
    assert not late
    entry = control.audit("weak").entries[0]
    assert (entry.actor, entry.action, entry.version, entry.after.primary) == ("gnomon", "rollback", 2, 1)
    assert re.fullmatch(
        r"the canary fails on [\d,]+ of [\d,]+ requests, and the primary on 0 of [\d,]+: at least [\d.]+ % more, "
        r"where 1 % are allowed",
        entry.reason,
    )
    counted = re.compile(r'gnomon_route_switches_total\{.*gnomon_model_name="weak".*gnomon_switch="rollback".*\} 1')
    eventually(lambda: counted.search(urllib.request.urlopen(f"http://{server.http}/metrics").read().decode()))


def test_a_version_with_other_tensors_cannot_be_a_canary(control: Control) -> None:
    expected = (
        r"version '3' cannot be a canary of version 1: expected x FP32 \[-1, 3\] -> y .*, received x FP32 \[-1, 4\]"
    )
    with pytest.raises(FailedPrecondition, match=expected):
        control.canary("weak", 3, 0.1)


def test_versions_that_the_settings_name_answer_when_they_are_named_whatever_their_role(
    server: ServerProcess, control: Control
) -> None:
    status = {version.version: version for version in control.models("many").models[0].versions}
    assert [version.role for version in status.values()] == ["primary", "shadow", "shadow"]
    with server.client() as client:
        # The two highest numbers, and the route's own.
        for version in (1, 2, 3):
            result = client.infer("many", ROW, version=version)
            np.testing.assert_array_equal(result["y"], ROW * np.float32(version))
        assert client.infer("many", ROW).version == "1"
        index = {int(one.version): one.state for one in client.repository_index() if one.model == "many"}
        assert index == {1: "READY", 2: "READY", 3: "READY"}
        control.shadow("many", 2, off=True)
        assert client.infer("many", ROW, version=2).version == "2"
        # A version more takes the place of the lower one.
        models.write(server.repository, "many", 4, models.affine(4.0))
        eventually(lambda: _answers(client, 4))
        eventually(lambda: not _answers(client, 2))
        assert _answers(client, 1)


def _answers(client: Client, version: int) -> bool:
    try:
        return client.infer("many", ROW, version=version).version == str(version)
    except (NotFound, Unavailable):
        return False


def test_the_command_takes_percent_and_says_what_is_so_now(server: ServerProcess, control: Control) -> None:
    done = server.gnomon("canary", "m", "2", "--weight", "5")
    assert (done.returncode, done.stdout) == (
        0,
        "m: primary is version 1; version 2 answers 5% of requests as canary; version 2 shadows 100% of requests\n",
    )
    assert "2 (5%)" in server.gnomon("models").stdout
    eventually(lambda: control.models("m").models[0].versions[1].role == "canary")
    for words, message in (
        (("m", "2"), "expected either --weight PERCENT or --off"),
        (("m", "2", "--weight", "5", "--off"), "expected either --weight PERCENT or --off"),
        (("m", "--weight", "5"), "version: expected the version that is to be the canary, received none"),
        (("m", "2", "--weight", "101"), "--weight: expected percent in (0, 100], received 101"),
        (("m", "2", "--weight", "nan"), "--weight: expected percent in (0, 100], received nan"),
        (("m", "1", "--off"), "model 'm' version '1' is not the canary: expected 2"),
    ):
        refused = server.gnomon("canary", *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused
        assert message in refused.stderr
    assert server.gnomon("canary", "m", "--off").returncode == 0
