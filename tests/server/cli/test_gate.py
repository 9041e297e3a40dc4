"""`gnomon gate`: the verdict on a version from a data set, and how it is told to continuous integration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import onnx_models as models
import pandas as pd
import pytest

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array
from gnomon_server import cli
from gnomon_server.cli.dataset import Dataset, answered
from gnomon_server.models import servable
from gnomon_server.shadow.recording import MAGIC, Found, Head, Run, encode
from gnomon_server.wire.plans import VersionRef
from gnomon_server.wire.record import Record

POLICY = """
[policy]
tolerance = 0.05
min_requests = 100
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    # Version 2 calls 1 what lies a little below the limit of version 1; version 3 nearly everything.
    for version, bias in ((1, 0.0), (2, 0.01), (3, 9.0)):
        models.write(folder, "m", version, models.classifier(bias))
    (tmp_path / "gnomon.toml").write_text(POLICY)
    return folder


def rows(count: int = 600) -> Array:
    return np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)


def gate(repository: Path, version: int, data: Path, *more: str, model: str = "m") -> int:
    config = repository.parent / "gnomon.toml"
    places = ("--repository", str(repository), "--config", str(config))
    return cli.main(["gate", model, str(version), "--data", str(data), *places, *more])


def saved(folder: Path, array: Array) -> Path:
    file = folder / "rows.npy"
    np.save(file, array)
    return file


def reported(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_version_that_agrees_passes_and_the_report_is_that_of_the_server(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(repository, 2, saved(tmp_path, rows())) == 0
    out = capsys.readouterr().out
    assert "m: version 2 in the shadow of version 1" in out
    assert "verdict: promote, 600 requests are observed and at most" in out
    assert "requests: 600 selected = 600 compared" in out
    assert gate(repository, 2, saved(tmp_path, rows()), "--json") == 0
    report = reported(capsys)
    assert (report["primary"], report["shadow"], report["outcomes"]["compared"]) == ("1", "2", "600")
    assert report["primary_digest"].startswith("sha256:")
    assert report["primary_digest"] != report["shadow_digest"]


def test_a_version_that_differs_fails_with_the_bound(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(repository, 3, saved(tmp_path, rows())) == 1
    assert "verdict: reject, 600 requests are observed and at least" in capsys.readouterr().out


def test_too_few_rows_and_the_same_row_again_and_again_are_no_evidence(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(repository, 2, saved(tmp_path, rows(20))) == 1
    assert "verdict: keep watching" in capsys.readouterr().out
    assert gate(repository, 2, saved(tmp_path, np.repeat(rows(20), 30, axis=0)), "--json") == 1
    report = reported(capsys)
    assert report["verdict"]["decision"] == "keep watching"
    assert report["observations"]["repeated_share"] == pytest.approx(580 / 600)


def test_the_primary_is_the_version_before_or_the_one_that_is_named(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = saved(tmp_path, rows())
    gate(repository, 3, data, "--json")
    assert reported(capsys)["primary"] == "2"
    gate(repository, 3, data, "--json", "--primary", "1")
    assert reported(capsys)["primary"] == "1"
    assert gate(repository, 1, data) == 2
    assert "no version before 1: expected --primary, one of [1, 2, 3]" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_labels_judge_who_is_right_whatever_the_versions_differ(
    repository: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rows(1500)
    # The truth is what version 3 says nearly always.
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(truth=1)
    file = tmp_path / f"rows{suffix}"
    if suffix == ".npz":
        np.savez(file, x=x, truth=frame["truth"].to_numpy())
    else:
        frame.to_csv(file, index=False)
    assert gate(repository, 3, file, "--primary", "1", "--labels", "truth", "--json") == 0
    report = reported(capsys)
    (finding,) = report["verdict"]["findings"]
    assert (finding["metric"], finding["state"], finding["knots"]) == ("loss", "holds", "SYM64")
    right = int((x.sum(axis=1) + 9 >= 0).sum()) - int((x.sum(axis=1) >= 0).sum())
    assert finding["estimate"] == pytest.approx(-right / 1500, abs=0.01)
    # The agreement is shown all the same.
    assert report["agreement"]["estimate"] < 0.6
    assert gate(repository, 3, file, "--primary", "1", "--labels", "truth") == 0
    assert "loss: -" in capsys.readouterr().out


def test_a_version_that_is_wrong_more_often_fails(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rows()
    np.savez(tmp_path / "rows.npz", x=x, truth=(x.sum(axis=1) > 0).astype(int))
    assert gate(repository, 3, tmp_path / "rows.npz", "--labels", "truth") == 1
    assert "the shadow is wrong on at least" in capsys.readouterr().out


def test_junit_has_a_test_for_each_limit_and_for_the_verdict(repository: Path, tmp_path: Path) -> None:
    data, file = saved(tmp_path, rows()), tmp_path / "gate.xml"
    (repository.parent / "gnomon.toml").write_text(POLICY + "errors = 0.05\n[policy.outputs]\nprobabilities = 0.2\n")
    assert gate(repository, 2, data, "--junit", str(file)) == 0
    suite = ET.parse(file).getroot()
    assert suite.attrib == {"name": "gnomon gate m 2", "tests": "4", "failures": "0", "errors": "0"}
    names = ["disagreement", "output probabilities", "failure", "verdict"]
    assert [case.get("name") for case in suite.iter("testcase")] == names
    assert {case.get("classname") for case in suite.iter("testcase")} == {"m.2"}
    assert gate(repository, 3, data, "--junit", str(file)) == 1
    suite = ET.parse(file).getroot()
    failed = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert int(suite.get("failures", "")) == sum(failure is not None for failure in failed.values()) == 3
    verdict = failed["verdict"]
    assert verdict is not None
    assert verdict.get("type") == "reject"
    assert "at least" in verdict.get("message", "")


def test_rows_that_either_version_fails_on_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "models"
    (tmp_path / "gnomon.toml").write_text(POLICY)
    models.write(repository, "m", 1, models.raising())
    models.write(repository, "m", 2, models.affine(1.0))
    models.write(repository, "m", 3, models.raising())
    x = rows(300)
    x[:, 0] = np.arange(300) < 30
    gate(repository, 2, saved(tmp_path, x), "--json")
    outcomes = reported(capsys)["outcomes"]
    assert (outcomes["primary_error"], outcomes["compared"], outcomes["selected"]) == ("30", "270", "300")
    assert gate(repository, 3, saved(tmp_path, x), "--json") == 1
    outcomes = reported(capsys)["outcomes"]
    assert (outcomes["shadow_error"], outcomes["compared"]) == ("30", "270")


def recorded(repository: Path, x: Array, model: str = "m", ago: float = 0.0) -> Path:
    """Writes what version 1 answered, so many seconds ago, as the recording of a shadow; request i is named r<i>."""
    version = servable.load(VersionRef("m", 1, str(repository / "m" / "1")))
    records, failed = answered(version, Dataset({"x": x}, None))
    assert not failed
    records = [named(record, f"r{number}", ago) for number, record in enumerate(records)]
    folder = repository.parent / "recording"
    folder.mkdir()
    head, run = Head(model, 9, "sha256:9", 1), Run(0, 0, ("compared",) * len(records), Found(), tuple(records))
    (folder / "1.gnomon").write_bytes(MAGIC + encode(head) + encode(run))
    return folder


def named(record: Record, name: str, ago: float) -> Record:
    request = pb.ModelInferRequest.FromString(record.request)
    request.id = name
    end_ns = record.end_ns - round(ago * 1e9)
    return msgspec.structs.replace(record, request=request.SerializeToString(), end_ns=end_ns)


def test_labels_of_recorded_requests_judge_as_labels_of_rows_do(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = repository.parent / "gnomon.toml"
    config.write_text("[policy]\nmin_requests = 100\nloss = 0.05\nlabels = 3600\nblock = 1\n")
    x = rows(2000)
    folder, truth = recorded(repository, x, ago=7200), (x.sum(axis=1) > 0).astype(int)
    file = tmp_path / "labels.csv"
    lines = ["id,label", *(f"r{number},{label}" for number, label in enumerate(truth)), "other,1"]
    file.write_text("\n".join(lines))
    assert gate(repository, 2, folder, "--feedback", str(file), "--json") == 0
    found = reported(capsys)["labels"]
    assert (found["joined"], found["unknown"], found["due"], found["labelled"]) == ("2000", "1", "2000", "2000")
    # The same rows as a data set, with the same truth.
    pd.DataFrame({"x0": x[:, 0], "x1": x[:, 1], "x2": x[:, 2], "truth": truth}).to_csv(tmp_path / "d.csv", index=False)
    for version, status in ((2, 0), (3, 1)):
        assert gate(repository, version, folder, "--feedback", str(file), "--json") == status
        of_recording = reported(capsys)["verdict"]["findings"]
        of_rows = ("--labels", "truth", "--primary", "1", "--json")
        assert gate(repository, version, tmp_path / "d.csv", *of_rows) == status
        assert of_recording == reported(capsys)["verdict"]["findings"]
        assert of_recording[0]["metric"] == "loss"


def test_requests_whose_labels_may_still_come_are_not_judged(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = repository.parent / "gnomon.toml"
    config.write_text("[policy]\nmin_requests = 100\nlabels = 86400\nblock = 1\n")
    folder, file = recorded(repository, rows(300), ago=7200), tmp_path / "labels.jsonl"
    file.write_text("\n".join(f'{{"id": "r{number}", "label": 1}}' for number in range(300)))
    assert gate(repository, 3, folder, "--feedback", str(file)) == 1
    assert "verdict: keep watching, no request has waited for its label for 1 d" in capsys.readouterr().out
    for text, config_text, expected in (
        ('{"id": "r1", "label": "x"}', "[policy]\nlabels = 60", "1 of 1 labels do not fit: id 'r1': model 'm' output"),
        ('{"id": "no", "label": 1}', "[policy]\nlabels = 60", "none of 1 labels is of a request of the recording"),
        ('{"id": "r1", "label": 1}', "", "[models.m.policy] labels: expected the seconds in which labels come"),
    ):
        file.write_text(text)
        config.write_text(config_text)
        assert gate(repository, 3, folder, "--feedback", str(file)) == 2
        assert expected in capsys.readouterr().err
    assert gate(repository, 3, saved(tmp_path, rows(5)), "--feedback", str(file)) == 2
    assert "--feedback: expected a recording as --data" in capsys.readouterr().err


def test_a_recording_is_a_data_set_too_and_its_traffic_is_observed_in_blocks(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(repository, rows(6000))
    assert gate(repository, 2, folder, "--json") == 0
    report = reported(capsys)
    assert (report["primary"], report["outcomes"]["compared"]) == ("1", "6000")
    assert (report["observations"]["block"], report["observations"]["count"]) == ("50", 120.0)
    assert gate(repository, 3, folder / "1.gnomon") == 1
    assert "verdict: reject, 6,000 requests are observed" in capsys.readouterr().out
    for more, text in (
        (("--labels", "truth"), "--labels: a recording has none"),
        (("--primary", "7"), "no answer of version 7: expected one of [1]"),
    ):
        assert gate(repository, 2, folder, *more) == 2
        assert text in capsys.readouterr().err


def test_a_recording_of_another_model_is_refused(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(repository, 2, recorded(repository, rows(5), "other")) == 2
    assert "expected a recording of model 'm', found 'other'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "more", "text"),
    [
        ((5, 4), (), "rows.npy: input 'x': expected [-1, 3], received [5, 4]"),
        ((0, 3), (), "expected rows, the same number of each input, received [0]"),
        ((5, 3), ("--labels", "truth"), "labels: expected a column of"),
        ((5, 3), ("--primary", "7"), "model 'm': version '7' not found"),
        ((5, 3), ("--junit", "no/such/folder.xml"), "no/such/folder.xml: cannot be written"),
    ],
)
def test_what_cannot_be_is_one_line(
    repository: Path,
    tmp_path: Path,
    shape: tuple[int, int],
    more: tuple[str, ...],
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gate(repository, 2, saved(tmp_path, np.zeros(shape, np.float32)), *more) == 2
    err = capsys.readouterr().err
    assert text in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_data_set_is_one_line(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.npz").write_bytes(b"no archive")
    for file, text in (("rows.npz", "cannot be read"), ("rows.txt", "expected a file ending in"), ("no.npy", "read")):
        assert gate(repository, 2, tmp_path / file) == 2
        assert text in capsys.readouterr().err
    np.savez(tmp_path / "rows.npz", z=rows(5))
    assert gate(repository, 2, tmp_path / "rows.npz") == 2
    assert "input 'z': expected one of ['x']" in capsys.readouterr().err
    (tmp_path / "gnomon.toml").write_text("[policy]\nbloc = 2")
    assert gate(repository, 2, tmp_path / "rows.npz") == 2
    assert "gnomon.toml:2: policy.bloc: " in capsys.readouterr().err


def test_a_segment_that_fails_fails_the_gate_and_one_that_cannot_be_is_said(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, config = saved(tmp_path, rows(1500)), tmp_path / "gnomon.toml"
    segment = "[policy.segments.edge]\nwhere = '{}'\ntolerance = 0.05\n"
    # Version 2 decides otherwise only where the sum is just below the limit.
    config.write_text(POLICY + segment.format("x[0] > 0"))
    assert gate(repository, 2, data, "--json") == 0
    (found,) = (one for one in reported(capsys)["verdict"]["findings"] if one["metric"] == "segment edge")
    assert found["state"] == "holds"
    # Half of the rows of version 3 agree, but none of these.
    policy = POLICY.replace("0.05", "0.9")
    config.write_text(policy + segment.format("x[0] < -0.5 and x[1] < 0 and x[2] < 0"))
    assert gate(repository, 3, data) == 1
    out = capsys.readouterr().out
    assert "verdict: reject" in out
    assert "of rows in segment 'edge' disagree, where the policy allows 5 %" in out
    config.write_text(POLICY + segment.format("y > 0"))
    assert gate(repository, 2, data) == 2
    assert "expected one of the inputs ['x'], received 'y'" in capsys.readouterr().err


def test_a_version_with_other_tensors_is_tried_as_it_is_declared(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = saved(repository.parent, rows())
    models.write(repository, "m", 4, models.renamed(models.classifier(0.0), x="z", probabilities="scores"))
    assert gate(repository, 4, data, "--primary", "1") == 2
    error = capsys.readouterr().err
    for part in (
        "[models.m.compare.align.4]",
        "input 'x': expected FP32 [-1, 3], received none",
        "output 'probabilities'",
    ):
        assert part in error
    config = repository.parent / "gnomon.toml"
    align = '[models.m.compare.align.4]\ninputs = { x = "z" }\noutputs = { probabilities = "scores" }\n'
    config.write_text(f"{POLICY}\n{align}")
    assert gate(repository, 4, data, "--primary", "1", "--json") == 0
    report = reported(capsys)
    assert (report["outcomes"]["compared"], report["agreement"]["estimate"]) == ("600", 1.0)
    config.write_text(f"{POLICY}\n{align}units = {{ x = {{ factor = 0 }} }}\n")
    assert gate(repository, 4, data, "--primary", "1") == 2
    assert (
        "models.m.compare.align.units: expected a finite offset and a finite factor other than 0"
        in capsys.readouterr().err
    )
