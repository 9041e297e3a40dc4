"""The server's life: it starts or says why not, outlives its children, takes them with it, and drains."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx_models as models
import psutil
import pytest
from raw_calls import channel, infer, output, request, started
from servers import ServerProcess, eventually

GNOMON = str(Path(sys.executable).with_name("gnomon"))
FRONTEND, WORKER = "gnomon_server.serving", "gnomon_server.shadow"
ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
HEAVY = np.full((1, 3), 2.0, np.float32)
MEBIBYTE = 1 << 20


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one version of one model."""
    folder = tmp_path / "models"
    models.write(folder, "line", 1, models.affine(2.0))
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def gnomon(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GNOMON, *arguments], capture_output=True, text=True, timeout=60, check=False)


def statuses(server: ServerProcess) -> dict[tuple[str, int], dict[str, Any]]:
    """Every version as `gnomon status --json` shows it."""
    ran = gnomon("status", "--json", "--control", server.control_address)
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(ran.stdout)["models"]
    return {(model["name"], int(version["version"])): version for model in shown for version in model["versions"]}


def answers(server: ServerProcess, model: str = "line", scale: float = 2.0) -> bool:
    """Whether a new connection gets the right answer; any refusal but UNAVAILABLE is a failure."""
    with channel(server.grpc) as wire:
        try:
            return bool(np.array_equal(output(infer(wire, request(model, {"x": ROW}))), scale * ROW))
        except grpc.RpcError as error:
            found: Any = error
            assert found.code() == grpc.StatusCode.UNAVAILABLE, found.details()
            return False


def settled(server: ServerProcess) -> bool:
    """Whether every frontend follows the newest plan."""
    try:
        with urllib.request.urlopen(f"http://{server.http}/readyz", timeout=10) as page:
            return bool(page.status == 200)
    except urllib.error.HTTPError:
        return False


def test_sigterm_answers_the_calls_in_flight_and_exits_with_0(repository: Path, state: Path) -> None:
    models.write(repository, "slow", 1, models.slow(100_000, above=1.5))
    server = ServerProcess(repository, state, config="grace = 120").start()
    with channel(server.grpc) as wire:
        calls = [started(wire, request("slow", {"x": HEAVY}, id=str(number))) for number in range(4)]
        # On the same connection after them, so that the server has them all.
        infer(wire, request("line", {"x": ROW}))
        assert server.terminate() == 0
        assert [call.result().id for call in calls] == ["0", "1", "2", "3"]
        assert all(np.array_equal(output(call.result()), HEAVY) for call in calls)
    assert not answers(server)


def test_a_second_sigterm_and_an_interrupt_change_nothing(repository: Path, state: Path) -> None:
    models.write(repository, "slow", 1, models.slow(100_000, above=1.5))
    server = ServerProcess(repository, state, config="grace = 120").start()
    assert server.process is not None
    with channel(server.grpc) as wire:
        call = started(wire, request("slow", {"x": HEAVY}))
        infer(wire, request("line", {"x": ROW}))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            server.process.send_signal(number)
        assert np.array_equal(output(call.result()), HEAVY)
    assert server.process.wait(60) == 0


def test_a_killed_frontend_starts_again_and_answers(repository: Path, state: Path) -> None:
    with ServerProcess(repository, state) as server:
        assert answers(server)
        (frontend,) = server.children(FRONTEND)
        frontend.kill()
        eventually(lambda: server.children(FRONTEND) not in ([], [frontend]) and answers(server))
        assert server.process is not None
        assert server.process.poll() is None


class Callers:
    """Threads that call again and again, each time over a new connection, and count the statuses."""

    def __init__(self, address: str, count: int) -> None:
        self._address = address
        self._stop = threading.Event()
        self._mutex = threading.Lock()
        self.statuses: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def _call(self) -> None:
        while not self._stop.is_set():
            status = "OK"
            with channel(self._address) as wire:
                try:
                    answer = output(infer(wire, request("line", {"x": ROW})))
                except grpc.RpcError as error:
                    found: Any = error
                    status = found.code().name
                else:
                    status = "OK" if np.array_equal(answer, 2 * ROW) else "WRONG"
            with self._mutex:
                self.statuses[status] += 1

    @contextmanager
    def calling(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def more(self, count: int) -> Callable[[], bool]:
        """Returns a condition: so many more calls were answered."""
        goal = self.statuses["OK"] + count
        return lambda: self.statuses["OK"] >= goal


def test_of_two_frontends_on_one_port_one_may_be_killed_under_load(repository: Path, state: Path) -> None:
    with ServerProcess(repository, state, "--workers", "2") as server:
        callers = Callers(server.grpc, 3)
        with callers.calling():
            eventually(callers.more(20))
            victim, survivor = server.children(FRONTEND)
            victim.kill()
            eventually(callers.more(20))
            eventually(lambda: len(set(server.children(FRONTEND)) - {victim}) == 2 and settled(server))
            # Those that share the port again: whoever gets a connection answers it.
            unavailable = callers.statuses["UNAVAILABLE"]
            eventually(callers.more(40))
            assert callers.statuses["UNAVAILABLE"] <= unavailable + 3
        assert set(callers.statuses) <= {"OK", "UNAVAILABLE"}, callers.statuses
        assert survivor in server.children(FRONTEND)
        assert server.process is not None
        assert server.process.poll() is None


@pytest.mark.parametrize("flag", ["--grpc", "--http", "--control"])
def test_an_address_that_is_taken_is_refused_in_one_line(flag: str, repository: Path, state: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = {"--grpc": "127.0.0.1:0", "--http": "127.0.0.1:0", "--control": "127.0.0.1:0", flag: address}
        flat = [part for pair in addresses.items() for part in pair]
        ran = gnomon("serve", str(repository), "--state", str(state), *flat)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"gnomon: cannot listen on {address}: ")
    assert ran.stderr.count("\n") == 1, ran.stderr


def test_a_state_that_another_server_holds_is_refused_in_one_line(repository: Path, state: Path) -> None:
    free = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--control", "127.0.0.1:0")
    with ServerProcess(repository, state) as server:
        ran = gnomon("serve", str(repository), "--state", str(state), *free)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert str(state) in ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
        assert answers(server)


def test_a_repository_that_is_not_there_is_refused_in_one_line(tmp_path: Path, state: Path) -> None:
    ran = gnomon("serve", str(tmp_path / "nowhere"), "--state", str(state), "--grpc", "127.0.0.1:0")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert str(tmp_path / "nowhere") in ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr


def test_versions_that_do_not_load_are_reported_while_others_serve(repository: Path, state: Path) -> None:
    for name, version in (("line", 2), ("torn", 1)):
        folder = repository / name / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"torn")
    other = models.write(repository, "other", 1, models.affine(3.0))
    manifest = {"format": 1, "model_file": "model.onnx", "model_digest": "sha256:" + "0" * 64}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with ServerProcess(repository, state) as server:
        assert answers(server)
        eventually(lambda: statuses(server)["line", 2]["state"] == "failed")
        shown = statuses(server)
        assert {key: (version["role"], version["state"]) for key, version in shown.items()} == {
            ("line", 1): ("primary", "ready"),
            ("line", 2): ("shadow", "failed"),
            ("torn", 1): ("primary", "failed"),
            ("other", 1): ("primary", "failed"),
        }
        assert "model.onnx does not load" in shown["line", 2]["reason"]
        assert "model.onnx does not load" in shown["torn", 1]["reason"]
        assert f"expected digest sha256:{'0' * 64}" in shown["other", 1]["reason"]
        assert shown["line", 1]["reason"] == ""
        assert not any("\n" in version["reason"] for version in shown.values())


def test_a_version_that_appears_while_serving_begins_in_the_shadow(repository: Path, state: Path) -> None:
    with ServerProcess(repository, state, config="poll = 0.1") as server:
        assert [version["role"] for version in statuses(server).values()] == ["primary"]
        models.write(repository, "line", 2, models.affine(5.0))
        models.write(repository, "second", 7, models.affine(3.0))
        eventually(lambda: statuses(server).get(("line", 2), {}).get("state") == "ready")
        eventually(lambda: statuses(server).get(("second", 7), {}).get("state") == "ready")
        roles = {key: version["role"] for key, version in statuses(server).items()}
        assert roles == {("line", 1): "primary", ("line", 2): "shadow", ("second", 7): "primary"}
        assert answers(server)
        assert answers(server, "second", 3.0)


def remembered(state: Path) -> int:
    """How many digests the state holds."""
    with closing(sqlite3.connect(f"file:{state / 'gnomon.sqlite'}?mode=ro", uri=True)) as connection:
        count: int = connection.execute("SELECT count(*) FROM versions").fetchone()[0]
    return count


def test_a_version_that_was_served_and_is_another_model_now_is_refused(repository: Path, state: Path) -> None:
    models.write(repository, "other", 1, models.affine(3.0))
    with ServerProcess(repository, state, config="poll = 0.1") as server:
        eventually(lambda: remembered(state) == 2)
        assert answers(server)
    shutil.rmtree(repository / "line" / "1")
    models.write(repository, "line", 1, models.affine(5.0))
    with ServerProcess(repository, state, config="poll = 0.1") as server:
        shown = statuses(server)
        assert shown["line", 1]["state"] == "failed"
        assert "versions never change, publish a new one" in shown["line", 1]["reason"]
        assert answers(server, "other", 3.0)
        with channel(server.grpc) as wire, pytest.raises(grpc.RpcError, match="no version is loaded"):
            infer(wire, request("line", {"x": ROW}))


def test_children_end_with_a_killed_control_and_leave_the_port(repository: Path, state: Path) -> None:
    models.write(repository, "line", 2, models.affine(2.0))
    server = ServerProcess(repository, state, "--workers", "2").start()
    eventually(lambda: len(server.children(WORKER)) == 1)
    children = server.children()
    assert len(children) == 3
    assert answers(server)
    assert server.process is not None
    server.process.kill()
    server.process.wait(30)
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (3, [])
    host, _, port = server.grpc.rpartition(":")
    with closing(socket.create_server((host, int(port)))):
        pass
    with ServerProcess(repository, state) as next_one:
        assert answers(next_one)


def test_a_small_server_at_rest_is_small(
    repository: Path, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.write(repository, "line", 2, models.affine(2.0))
    with ServerProcess(repository, state) as server:
        eventually(lambda: statuses(server)["line", 2]["state"] == "ready")
        for _ in range(100):
            assert answers(server)
        # PSS counts a page that several processes share once in all.
        memory = [process.memory_full_info() for process in (psutil.Process(server.pid), *server.children())]
        rss, pss = (sum(getattr(one, name) for one in memory) / MEBIBYTE for name in ("rss", "pss"))
        with capsys.disabled():
            print(f"\nat rest, {len(memory)} processes: PSS {pss:.0f} MiB, RSS {rss:.0f} MiB")  # noqa: T201
        assert len(memory) == 3
        assert pss < 400


def test_onnxruntime_never_reports_home(repository: Path, state: Path, tmp_path: Path) -> None:
    models.write(repository, "line", 2, models.affine(2.0))
    home = tmp_path / "home"
    home.mkdir()
    with ServerProcess(repository, state, environment={"HOME": str(home), "ORT_DISABLE_TELEMETRY": "0"}) as server:
        eventually(lambda: statuses(server)["line", 2]["state"] == "ready")
        for _ in range(20):
            assert answers(server)
        children = server.children()
        assert len(children) == 2
        # As it was when each process began, before it could import anything.
        assert {child.environ().get("ORT_DISABLE_TELEMETRY") for child in children} == {"1"}
        loaded = {mapped.path for mapped in psutil.Process(server.pid).memory_maps()}
        assert not [path for path in loaded if "/onnxruntime/" in path]
    assert list(home.rglob("*")) == []
