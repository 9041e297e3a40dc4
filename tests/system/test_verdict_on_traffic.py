"""The verdict on real traffic: what repeats itself is no evidence, and a decision outlives the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_models as models
from load import Load, Rows
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Control
from gnomon_protos import control_pb2 as pb

POLICY = "tolerance = 0.05\nmin_requests = 100\nmin_duration = 0\nblock = 1"
CONFIG = f"grace = 2.0\n[policy]\n{POLICY}\n[mirror]\ndeadline = 60.0\n"


def different(number: int) -> Rows:
    return np.full((1, 3), number / 1024, np.float32)


def same(_: int) -> Rows:
    return np.ones((1, 3), np.float32)


def sent(server: ServerProcess, control: Control, count: int, rows: Callable[[int], Rows]) -> pb.Report:
    """Returns the report once this many more requests are compared."""
    before = control.report("m").outcomes.selected
    with Load(server.grpc, "m", rows, threads=1, pace=0.001) as load:
        load.reach(count)
    at_rest(control, "m", before + load.ended)
    return control.report("m")


def test_a_verdict_needs_different_requests_and_outlives_the_server_that_found_it(tmp_path: Path) -> None:
    for version in (1, 2):
        models.write(tmp_path / "models", "m", version, models.affine(1.0))
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server:
        with server.control() as control:
            mirrored(control, "m")
            found = sent(server, control, 300, same)
            assert (found.verdict.decision, found.outcomes.compared) == ("keep watching", found.outcomes.selected)
            assert found.observations.repeated == found.outcomes.compared - 1
            assert found.observations.count == 1
            sent(server, control, 150, different)
            eventually(lambda: control.report("m").verdict.decided)
            first = control.report("m").verdict
            assert first.decision == "promote"
            (finding,) = first.findings
            assert (finding.metric, finding.state) == ("disagreement", "holds")
            assert finding.worst == finding.best
        server.terminate()
        server.start()
        with server.control() as control:
            mirrored(control, "m")
            again = control.report("m")
            assert again.verdict == first
            assert again.observations.lost == 0
            assert control.promote("m", 2, reason="proven before").evidence.verdict == first
