"""A server that records: what its shadow found is found again by `gnomon replay`, also after SIGKILL."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models as models
import pytest
from google.protobuf import json_format
from load import Load
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Internal
from gnomon_protos import control_pb2
from gnomon_protos import inference_pb2 as pb
from gnomon_server.shadow.recording import Segment, segments

GNOMON = str(Path(sys.executable).with_name("gnomon"))
# Nothing is run again: a replay does not know which requests those were.
M = "[models.m.compare]\nrepeat = 0.0\n[models.m.recording]\nenabled = true\n"
CONFIG = f"grace = 1.0\n[mirror]\ndeadline = 60.0\n{M}"
# What a replay shows of a live server's report with other words.
LIVE = ("since", "shadow_state", "shadow_reason", "sample", "primary_digest")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    models.write(folder, "m", 1, models.affine(1.0))
    # Rows of zeros agree, all others do not.
    models.write(folder, "m", 2, models.affine(1.02))
    return folder


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [GNOMON, "replay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def as_json(report: control_pb2.Report) -> dict[str, Any]:
    shown: dict[str, Any] = json_format.MessageToDict(
        report, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return shown


def recorded_ids(folder: Path) -> list[str]:
    ids = []
    for path in segments(folder):
        with Segment(path) as segment:
            ids += [pb.ModelInferRequest.FromString(r.request).id for run in segment for r in run.records]
    return ids


def test_a_replay_of_the_recorded_version_gives_the_report_of_then(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "recordings" / "m" / "2"
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(200)
        at_rest(control, "m", load.ended)
        live = as_json(control.report("m"))
    assert sorted(recorded_ids(folder)) == sorted(load.ids)
    done = replay(folder, "--against", 2, "--repository", repository, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["comparable"] == found["runs"] > 0
    assert (found["differing"], found["cut_bytes"]) == (0, 0)
    (again,) = found["reports"]
    assert 0 < live["agreement"]["estimate"] < 1
    # To a replay a least duration means nothing, so that its policy is another one.
    assert live["verdict"].pop("policy_digest") != again["verdict"].pop("policy_digest")
    assert {name: again[name] for name in again if name not in LIVE} == {
        name: live[name] for name in live if name not in LIVE
    }
    models.write(repository, "m", 3, models.affine(1.0))
    other = replay(folder, "--against", 3, "--repository", repository)
    assert (other.returncode, other.stderr) == (0, "")
    assert f"{load.ended:,} selected = {load.ended:,} compared" in other.stdout
    assert "agreement: 100.00%" in other.stdout
    assert "on a version that was not recorded" in other.stdout


def test_a_worker_that_is_killed_leaves_a_recording_that_is_whole_to_its_last_run(
    repository: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "state" / "recordings" / "m" / "2"
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            for _ in range(3):
                before = control.report("m").outcomes.compared
                load.reach(60)
                eventually(lambda before=before: control.report("m").outcomes.compared > before)  # type: ignore[misc]
                compared = control.report("m").outcomes.compared
                (worker,) = server.children("gnomon_server.shadow")
                worker.kill()
                # Whatever was reported as compared was on disk before.
                assert len(recorded_ids(folder)) >= compared
                eventually(lambda: control.report("m").shadow_state != "ready")
                eventually(lambda: control.report("m").shadow_state == "ready")
        found = at_rest(control, "m", load.ended)
    ids = recorded_ids(folder)
    assert len(ids) == len(set(ids)) >= found.compared
    assert set(ids) <= set(load.ids)
    # As if the last kill had struck in the middle of a write.
    last = segments(folder)[-1]
    last.write_bytes(last.read_bytes()[:-5])
    done = replay(folder, "--against", 2, "--repository", repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "runs of the recorded version gave exactly what was recorded" in done.stdout
    assert "bytes at the end of a segment are no whole frame" in done.stdout


def test_a_version_that_answers_otherwise_under_the_recorded_digest_fails_the_replay(
    repository: Path, tmp_path: Path
) -> None:
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(20)
        at_rest(control, "m", load.ended)
    (path,) = segments(tmp_path / "state" / "recordings" / "m" / "2")
    # The digest is that of the file; the manifest beside it may change how it is compared.
    lenient = {"output": "y", "comparator": "exact", "tolerance": 1.0}
    (repository / "m" / "2" / "manifest.json").write_text(
        json.dumps({"model_file": "model.onnx", "comparisons": [lenient]})
    )
    done = replay(path, "--against", 2, "--repository", repository)
    assert done.returncode == 1, done
    assert "runs of the recorded version differ from then" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("absent", "--against", "2"), "absent: cannot be read"),
        ((__file__, "--against", "2"), "expected a recording that begins with gnomonR1"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(arguments: tuple[str, ...], text: str) -> None:
    done = replay(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert text in done.stderr


def test_a_recording_is_replayed_against_a_server_elsewhere(repository: Path, tmp_path: Path) -> None:
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as server, server.control() as control:
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(50)
        at_rest(control, "m", load.ended)
        folder = tmp_path / "state" / "recordings" / "m" / "2"
        # The primary against itself, as if it were a server elsewhere.
        done = replay(folder, "--against", 1, "--remote", server.grpc, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        (report,) = json.loads(done.stdout)["reports"]
        assert (report["outcomes"]["compared"], report["agreement"]["estimate"]) == (str(load.ended), 1.0)


def test_what_the_primary_failed_on_is_in_the_outcomes_of_a_replay(tmp_path: Path) -> None:
    models.write(tmp_path / "models", "m", 1, models.raising())
    models.write(tmp_path / "models", "m", 2, models.raising())
    folder = tmp_path / "state" / "recordings" / "m" / "2"
    good, bad = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    with (
        ServerProcess(tmp_path / "models", tmp_path / "state", config=CONFIG) as server,
        server.control() as control,
        server.client() as client,
    ):
        mirrored(control, "m")
        for row in (bad, good, bad, good, bad):
            with contextlib.suppress(Internal):
                client.infer("m", row)
        live = at_rest(control, "m", 5)
    assert (live.compared, live.primary_error) == (2, 3)
    done = replay(folder, "--against", 2, "--repository", tmp_path / "models", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (again,) = json.loads(done.stdout)["reports"]
    assert again["outcomes"] == json_format.MessageToDict(
        live, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
