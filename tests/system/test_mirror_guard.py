"""A primary under strain: its mirroring is thinned by halves, comes back by itself, and the report knows when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx_models as models
from load import Load, leading
from servers import ServerProcess, eventually
from tallying import adds_up, mirrored

from gnomon_protos import inference_pb2 as pb
from gnomon_server.serving.selection import position, selected
from gnomon_server.shadow.recording import Segment, segments

GNOMON = str(Path(sys.executable).with_name("gnomon"))
CONFIG = "[mirror]\ndeadline = 60.0\n[guard]\nqueue = 4\nrecovery = 1.0\n[models.m.recording]\nenabled = true\n"
A_TENTH_SECOND = 6_000


def test_a_queue_above_its_limit_thins_the_mirror_and_a_calm_one_brings_it_back(tmp_path: Path) -> None:
    models.write(tmp_path / "models", "m", 1, models.slow(A_TENTH_SECOND, above=1.5))
    models.write(tmp_path / "models", "m", 2, models.affine(1.0))
    with ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server, server.control() as control:
        mirrored(control, "m")
        # One client has one request in flight at most.
        with Load(server.grpc, "m", threads=1, name="calm") as calm:
            calm.reach(100)
            with Load(server.grpc, "m", leading(2.0, every=1), threads=10, name="strain") as strain:
                eventually(lambda: [one.factor for one in control.report("m").thinnings if one.factor <= 0.25])
                strain.reach(30)
            eventually(lambda: [one.until for one in control.report("m").thinnings if one.until])
            calm.reach(100)
        assert calm.failures == strain.failures == []
        eventually(lambda: not control.report("m").outcomes.pending)
        report = control.report("m")
        shown = subprocess.run(
            [GNOMON, "report", "m", "--control", server.control_address], capture_output=True, text=True, check=True
        ).stdout
    assert adds_up(report.outcomes)
    assert report.outcomes.selected < calm.ended + strain.ended
    assert {one.cause for one in report.thinnings} == {"queue"}
    shares = [stratum.sample for stratum in report.strata]
    assert shares[:3] == [1.0, 0.5, 0.25]
    assert sum(stratum.compared for stratum in report.strata) == report.outcomes.compared
    # The shadow agrees with everything, whatever was left out.
    assert report.agreement_of_traffic == 1.0
    assert "thinned: from " in shown
    assert "(queue)" in shown
    assert "by share of requests: 100.00% of " in shown
    # Sampling is keyed: each request that was mirrored lies in the share of its time.
    for path in segments(tmp_path / "state" / "recordings" / "m" / "2"):
        with Segment(path) as segment:
            for record in (record for run in segment for record in run.records):
                request = pb.ModelInferRequest.FromString(record.request)
                assert selected(position(request.id, record.request), record.sample)
