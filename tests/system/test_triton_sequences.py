"""Sequences of Triton's client: each is mirrored all or none, in order."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import onnx_models as models
from servers import ServerProcess
from tallying import at_rest, mirrored

from gnomon_protos import inference_pb2 as pb
from gnomon_server.serving.selection import position
from gnomon_server.shadow.recording import Segment, segments

SCRIPT = Path(__file__).parents[1] / "tritonclient_sequences.py"
SEQUENCES, STEPS = 40, 5
CONFIG = "[mirror]\ndeadline = 60.0\n[models.line.recording]\nenabled = true\n"


def recorded(folder: Path) -> dict[str, list[int]]:
    """Returns the steps of each sequence in the order in which the shadow ran them."""
    found = defaultdict(list)
    for path in segments(folder):
        with Segment(path) as segment:
            for run in segment:
                for one in run.records:
                    sequence, step = pb.ModelInferRequest.FromString(one.request).id.split("/")
                    found[sequence].append(int(step))
    return dict(found)


def test_every_sequence_of_a_stream_is_mirrored_whole_and_in_order_or_not_at_all(tmp_path: Path) -> None:
    models.write(tmp_path / "models", "line", 1, models.affine(2.0))
    models.write(tmp_path / "models", "line", 2, models.affine(2.0))
    folder = tmp_path / "state" / "recordings" / "line" / "2"
    with (
        ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server,
        server.control() as control,
    ):
        mirrored(control, "line")
        control.shadow("line", 2, sample=0.5)
        said = subprocess.run(
            [sys.executable, str(SCRIPT), server.grpc, str(SEQUENCES), str(STEPS)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        ids = [f"{number}/{step}" for step in range(STEPS) for number in range(1, SEQUENCES + 1)]
        assert json.loads(said.stdout) == ids
        keys = {n: f"#{n}" if n % 2 else f"$s{n}" for n in range(1, SEQUENCES + 1)}
        selected = {str(number) for number, key in keys.items() if position("", key.encode()) < 0.5}
        at_rest(control, "line", len(selected) * STEPS)
    assert 0 < len(selected) < SEQUENCES
    assert recorded(folder) == {sequence: list(range(STEPS)) for sequence in selected}
