"""A frontend that is killed with records in its buffers: what it took with it is counted, while its worker lives on."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import onnx_models as models
import psutil
from load import Load, Rows
from servers import ServerProcess, eventually
from tallying import adds_up, mirrored, settled

from gnomon_protos import control_pb2 as pb

CONFIG = "grace = 1.0\n[mirror]\ndeadline = 60.0\n"


def large(number: int) -> Rows:
    """So many numbers that a socket holds the records of a few requests only; the rest waits in the frontend."""
    return np.full((2000, 3), number % 3, np.float32)


def busiest(frontends: list[psutil.Process]) -> psutil.Process:
    """The frontend that most clients are connected to: the kernel divides them by chance."""
    return max(frontends, key=lambda frontend: len(frontend.net_connections("tcp")))


def test_what_a_killed_frontend_had_not_handed_over_is_dropped_while_the_worker_lives(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for version in (1, 2):
        models.write(repository, "m", version, models.affine(1.0))
    server = ServerProcess(repository, tmp_path / "state", "--workers", "2", config=CONFIG)
    with server, server.control() as control:
        mirrored(control, "m")
        (worker,) = server.children("gnomon_server.shadow")
        with Load(server.grpc, "m", large, threads=4) as load:
            load.reach(20)
            worker.send_signal(signal.SIGSTOP)
            # What is known to be selected by a frontend of which nobody hears any more is what it had reported.
            eventually(lambda: control.report("m").outcomes.pending >= 100)
            victim = busiest(server.children("gnomon_server.serving"))
            victim.kill()
            eventually(lambda: not victim.is_running())
            worker.send_signal(signal.SIGCONT)
            load.reach(20)
        assert load.answers
        found = pb.Outcomes()

        def rests() -> bool:
            found.CopyFrom(control.report("m").outcomes)
            assert adds_up(found), found
            return found.pending == 0

        eventually(rests)
        assert worker.is_running()
        assert [child.pid for child in server.children("gnomon_server.shadow")] == [worker.pid]
        assert found.selected == settled(found) <= load.ended
        assert found.dropped > 0
        assert found.compared > 0
        assert found.compared + found.dropped == found.selected
