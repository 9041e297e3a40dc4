"""Shadow workers that leak, crash in native code, spin or stop: users see nothing, `status` says what happens."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx_models as models
import psutil
import pytest
from load import Load
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Control
from gnomon_protos import control_pb2

SABOTAGE = str(Path(__file__).parents[1] / "sabotage")
CONFIG = "grace = 1.0\n[mirror]\ndeadline = 60.0\nsilence = 3.0\nworker_bytes = 402653184\n"


@pytest.fixture
def server(tmp_path: Path) -> ServerProcess:
    return serving(tmp_path)


def serving(tmp_path: Path, more: str = "") -> ServerProcess:
    models.write(tmp_path / "models", "m", 1, models.affine(1.0))
    models.write(tmp_path / "models", "m", 2, models.affine(1.0))
    environment = {"PYTHONPATH": SABOTAGE, "GNOMON_TEST_SABOTAGE": str(tmp_path)}
    return ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG + more, environment=environment)


def shadow(control: Control) -> control_pb2.VersionStatus:
    (model,) = control.models("m").models
    return next(version for version in model.versions if version.version == 2)


def assert_unharmed(load: Load) -> None:
    assert load.failures == []
    assert all(np.array_equal(answer.y, answer.x) for answer in load.answers)


def test_a_worker_that_crashes_in_native_code_again_and_again_is_given_up_and_status_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, "lives = 2\n") as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(50)
            (tmp_path / "segfault").touch()
            eventually(lambda: shadow(control).state == "failed")
            load.reach(50)
            reason = shadow(control).reason
            assert reason.startswith("given up after 2 short lives, the last of which was killed by SIGSEGV")
            compared = control.report("m").outcomes.compared
            # What the reason says to do brings it back once the cause has gone.
            (tmp_path / "segfault").unlink()
            control.shadow("m", 2, off=True)
            control.shadow("m", 2)
            mirrored(control, "m")
            load.reach(50)
        assert_unharmed(load)
        eventually(lambda: control.report("m").outcomes.compared > compared)
        eventually(lambda: not control.report("m").outcomes.pending)
        found = control.report("m").outcomes
        assert found.compared + found.dropped == found.selected
        assert found.dropped > 0


def test_a_worker_that_leaks_is_ended_at_its_bound_and_begins_anew(server: ServerProcess, tmp_path: Path) -> None:
    with server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(50)
            (worker,) = server.children("gnomon_server.shadow")
            (tmp_path / "leak").touch()
            most = 0
            while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                with suppress(psutil.NoSuchProcess):
                    most = max(most, worker.memory_info().rss)
                load.reach(1)
            (tmp_path / "leak").unlink()
            eventually(lambda: "shadow m/2 reached its bound of memory in life 1" in "".join(server.log))
            eventually(lambda: shadow(control).state == "ready")
            assert shadow(control).reason == ""
            load.reach(50)
        assert most < 402653184 + (64 << 20)
        assert_unharmed(load)
        found = at_rest(control, "m", load.ended)
        assert found.compared + found.dropped == load.ended


def test_a_worker_whose_threads_all_spin_takes_nothing_from_the_primary(server: ServerProcess, tmp_path: Path) -> None:
    with server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(50)
            (worker,) = server.children("gnomon_server.shadow")
            before = worker.cpu_times()
            (tmp_path / "spin").touch()
            load.reach(200)
            after = worker.cpu_times()
        assert sum(after[:2]) > sum(before[:2])
        assert_unharmed(load)


def test_a_worker_that_is_stopped_is_killed_after_its_silence_and_begins_anew(server: ServerProcess) -> None:
    with server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(50)
            (worker,) = server.children("gnomon_server.shadow")
            worker.suspend()
            eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
            eventually(lambda: "the worker was killed by SIGKILL" in shadow(control).reason)
            eventually(lambda: shadow(control).state == "ready")
            load.reach(50)
        assert_unharmed(load)
        found = at_rest(control, "m", load.ended)
        assert found.compared + found.dropped == load.ended
