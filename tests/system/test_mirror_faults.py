"""Shadows that raise, crawl, die and hang: no user notices, and nothing that was selected is lost from the count."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from load import Load, leading
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Client, Control, Internal
from gnomon_server.serving.selection import position, selected

SHORT = "grace = 1.0\n[mirror]\ndeadline = 1.0\n"
PATIENT = "grace = 1.0\n[mirror]\ndeadline = 60.0\n"
# Enough for some ten seconds of one core.
TEN_SECONDS = 600_000
A_TENTH_SECOND = 6_000


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    models.write(folder, "m", 1, models.affine(1.0))
    return folder


def assert_all_answered(load: Load, version: int = 1) -> None:
    assert load.failures == []
    assert all(answer.version == version for answer in load.answers)
    assert all(np.array_equal(answer.y, answer.x) for answer in load.answers)


def kill_worker(server: ServerProcess, control: Control, version: int, sparing: int = 0) -> None:
    """SIGKILL to the worker that is ready, which is every worker but the one with the pid `sparing`."""
    eventually(lambda: control.report("m", version).shadow_state == "ready")
    (worker,) = [process for process in server.children("gnomon_server.shadow") if process.pid != sparing]
    worker.kill()
    eventually(lambda: control.report("m", version).shadow_state != "ready")


def test_a_shadow_that_raises_on_some_rows_is_counted_row_by_row_and_seen_by_nobody(
    repository: Path, tmp_path: Path
) -> None:
    models.write(repository, "m", 2, models.raising())
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m", leading(5.0, every=4)) as load:
            load.reach(400)
        assert_all_answered(load)
        bad = sum(answer.x[0, 0] == 5.0 for answer in load.answers)
        found = at_rest(control, "m", load.ended)
        assert (found.compared, found.shadow_error) == (load.ended - bad, bad)


def test_a_shadow_of_ten_seconds_a_batch_costs_timeouts_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "m", 2, models.slow(TEN_SECONDS, above=1.5))
    with ServerProcess(repository, tmp_path / "state", config=SHORT) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m", leading(2.0, every=50)) as load:
            load.reach(150)
            # The shadow is in its first heavy batch by now, and all that waits behind it comes to its end in time.
            eventually(lambda: control.report("m").outcomes.timeout > 100)
        assert_all_answered(load)
        control.shadow("m", 2, off=True)
        found = at_rest(control, "m", load.ended, shadow=2)
        assert found.timeout >= 100
        assert found.compared + found.timeout + found.dropped == load.ended


def test_a_shadow_that_is_killed_five_times_under_load_loses_requests_and_no_count(
    repository: Path, tmp_path: Path
) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            for _ in range(5):
                load.reach(60)
                kill_worker(server, control, 2)
            eventually(lambda: control.report("m").shadow_state == "ready")
            load.reach(60)
        assert_all_answered(load)
        found = at_rest(control, "m", load.ended)
        assert found.compared + found.dropped == load.ended
        assert found.compared > 0
        assert found.dropped > 0


def test_a_shadow_that_hangs_blocks_nobody_and_wakes_to_what_is_not_late_yet(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        (worker,) = server.children("gnomon_server.shadow")
        with Load(server.grpc, "m") as load:
            load.reach(50)
            worker.send_signal(signal.SIGSTOP)
            load.reach(300)
            eventually(lambda: control.report("m").outcomes.pending >= 200)
            worker.send_signal(signal.SIGCONT)
            load.reach(50)
        assert_all_answered(load)
        assert at_rest(control, "m", load.ended).compared == load.ended


def test_a_shadow_that_hangs_until_its_feed_is_full_costs_drops_that_are_counted(
    repository: Path, tmp_path: Path
) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    config = "grace = 1.0\n[mirror]\ndeadline = 60.0\nfeed_bytes = 8192\n"
    with ServerProcess(repository, tmp_path / "state", config=config) as server, server.control() as control:
        mirrored(control, "m")
        (worker,) = server.children("gnomon_server.shadow")
        with Load(server.grpc, "m", lambda number: np.full((2000, 3), number % 3, np.float32)) as load:
            load.reach(10)
            worker.send_signal(signal.SIGSTOP)
            eventually(lambda: control.report("m").outcomes.dropped >= 20)
            worker.kill()
            load.reach(10)
        assert_all_answered(load)
        found = at_rest(control, "m", load.ended)
        assert found.compared + found.dropped == load.ended


def test_a_shadow_that_hangs_holds_up_no_shutdown_and_what_it_held_is_dropped(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        (worker,) = server.children("gnomon_server.shadow")
        worker.send_signal(signal.SIGSTOP)
        with Load(server.grpc, "m") as load:
            load.reach(50)
        assert server.terminate() == 0
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as again, again.control() as control:
        assert at_rest(control, "m", load.ended).dropped == load.ended


def test_of_a_share_exactly_the_requests_are_selected_whose_ids_lie_in_it(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m", sample=0.3)
        with Load(server.grpc, "m") as load:
            load.reach(300)
        assert_all_answered(load)
        expected = sum(selected(position(request_id, b""), 0.3) for request_id in load.ids)
        assert 0 < expected < load.ended
        assert at_rest(control, "m", expected).compared == expected


def test_a_share_that_changes_under_load_loses_no_count(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        (worker,) = server.children("gnomon_server.shadow")
        # While nothing is settled, the count of selected requests is that of the frontends alone.
        worker.send_signal(signal.SIGSTOP)
        with Load(server.grpc, "m") as load:
            for share in (0.999999, 1.0) * 10:
                load.reach(10)
                control.shadow("m", 2, share)
        assert_all_answered(load)
        eventually(lambda: control.report("m").outcomes.selected >= load.ended)
        worker.send_signal(signal.SIGCONT)
        at_rest(control, "m", load.ended)


def test_what_is_in_flight_while_a_shadow_dies_and_returns_is_counted(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    # At every moment some request is in its primary's run.
    models.write(repository, "m", 1, models.slow(A_TENTH_SECOND, above=1.5))
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m", leading(2.0, every=1), threads=2) as load:
            for _ in range(2):
                load.reach(6)
                kill_worker(server, control, 2)
            eventually(lambda: control.report("m").shadow_state == "ready")
            load.reach(6)
        assert_all_answered(load)
        found = at_rest(control, "m", load.ended)
        assert found.compared + found.dropped == load.ended
        assert found.compared > 0


def test_requests_that_the_primary_fails_are_selected_and_named_so(repository: Path, tmp_path: Path) -> None:
    models.write(repository, "failing", 1, models.raising())
    models.write(repository, "failing", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "failing")
        with Client(server.grpc) as client:
            for number in range(40):
                row = np.array([[5.0 if number % 4 == 0 else 0.0, 1, 2]], np.float32)
                if number % 4 == 0:
                    with pytest.raises(Internal, match="model 'failing' version '1': execution failed"):
                        client.infer("failing", row)
                else:
                    client.infer("failing", row)
        found = at_rest(control, "failing", 40)
        assert (found.primary_error, found.compared) == (10, 30)


def test_beside_a_shadow_that_dies_again_and_again_the_other_one_compares_everything(
    repository: Path, tmp_path: Path
) -> None:
    models.write(repository, "m", 2, models.affine(1.0))
    with ServerProcess(repository, tmp_path / "state", config=PATIENT) as server, server.control() as control:
        mirrored(control, "m")
        (survivor,) = server.children("gnomon_server.shadow")
        models.write(repository, "m", 3, models.affine(1.0))
        eventually(lambda: len(control.models("m").models[0].versions) == 3)
        mirrored(control, "m", 3)
        with Load(server.grpc, "m") as load:
            for _ in range(3):
                load.reach(60)
                kill_worker(server, control, 3, sparing=survivor.pid)
            load.reach(60)
        assert_all_answered(load)
        assert survivor.is_running()
        assert at_rest(control, "m", load.ended, shadow=2).compared == load.ended
        found = at_rest(control, "m", load.ended, shadow=3)
        assert found.compared + found.dropped == load.ended
        assert found.dropped > 0
