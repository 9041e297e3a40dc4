"""Divergent requests come down to what makes them diverge, and are tried again from the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest

from gnomon_protos import control_pb2, tensors
from gnomon_protos.tensors import Array
from gnomon_server import cli
from gnomon_server.cli import vectorfile
from gnomon_server.cli.both import Both
from gnomon_server.cli.dataset import Dataset
from gnomon_server.cli.vectors import shrunk
from gnomon_server.errors import InvalidRequest
from gnomon_server.models import servable
from gnomon_server.wire.plans import VersionRef

FAULTY = (3, 11)
NEVER, LIMIT = 1e9, 0.8


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for version, limit in ((1, NEVER), (2, LIMIT), (3, NEVER)):
        models.write(folder, "m", version, models.paired(limit, *FAULTY))
    return folder


@pytest.fixture
def both(repository: Path) -> Both:
    primary, shadow = (servable.load(VersionRef("m", v, str(repository / "m" / str(v)))) for v in (1, 2))
    return Both(primary, shadow)


def rows(count: int = 400) -> Array:
    return np.random.default_rng(0).uniform(0, 1, (count, 20)).astype(np.float32)


def divergent(x: Array) -> Array:
    found: Array = x[(x[:, FAULTY] >= np.float32(LIMIT)).all(axis=1)]
    return found


def requests(x: Array, withheld: bool = False) -> list[control_pb2.DivergentRequest]:
    return [
        control_pb2.DivergentRequest(
            trace_id=f"{number:032x}",
            primary=1,
            shadow=2,
            rows=1,
            inputs=[control_pb2.KeptTensor(tensor=tensors.to_message("x", row[np.newaxis]), withheld=withheld)],
        )
        for number, row in enumerate(x)
    ]


def test_a_fault_of_two_among_twenty_features_comes_down_to_these_two(both: Both) -> None:
    x = rows()
    found = shrunk(both, requests(divergent(x)), {"x": x})
    assert len(found.vectors) == len(divergent(x)) > 5
    for vector, row in zip(found.vectors, divergent(x), strict=True):
        assert vector.minimal
        assert [(one.input, one.index, one.value) for one in vector.changes] == [
            ("x", (feature,), float(row[feature])) for feature in FAULTY
        ]
        assert both.diverge(Dataset(vector.inputs, None)) == [True]
        for feature in FAULTY:
            without = vector.inputs["x"].copy()
            without[0, feature] = found.typical["x"][0, feature]
            assert both.diverge(Dataset({"x": without}, None)) == [False]
    assert shrunk(both, requests(divergent(x)), {"x": x}).vectors[0].record.request == found.vectors[0].record.request


def test_where_what_is_typical_diverges_the_nearest_row_that_agrees_takes_its_place(both: Both) -> None:
    x = divergent(rows())
    agreeing = x[:1].copy()
    agreeing[0, FAULTY[1]] = 0
    found = shrunk(both, requests(x[:3]), {"x": np.concatenate([x, agreeing])})
    assert found.typical["x"].tolist() == agreeing.tolist()
    assert {one.index for vector in found.vectors for one in vector.changes} == {(FAULTY[1],)}
    with pytest.raises(InvalidRequest, match="expected some on which the versions agree, found none"):
        shrunk(both, requests(x))


def test_what_is_withheld_and_what_does_not_diverge_is_left_out_and_counted(both: Both) -> None:
    x = rows()
    asked = [*requests(divergent(x)[:2], withheld=True), *requests(np.zeros((3, 20), np.float32))]
    found = shrunk(both, [*asked, *requests(divergent(x)[:1])], {"x": x})
    assert (len(found.vectors), found.withheld, found.agreeing) == (1, 2, 3)
    assert shrunk(both, requests(x, withheld=True)).vectors == ()


def test_requests_that_come_down_to_the_same_are_one_vector(both: Both) -> None:
    x = rows()
    twins = divergent(x)[:1].repeat(3, axis=0)
    twins[:, 0] = [0.1, 0.2, 0.3]
    assert len(shrunk(both, requests(twins), {"x": x}).vectors) == 1


def test_what_is_saved_is_tried_again_on_any_version(
    both: Both, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rows()
    found = shrunk(both, requests(divergent(x)[:4]), {"x": x})
    folder = tmp_path / "vectors"
    recording, document = vectorfile.save(both, found, folder)
    assert (recording.name, document.name) == ("m-1-2.gnomon", "m-1-2.json")
    assert {path.stat().st_mode & 0o777 for path in (recording, document)} == {0o600}
    said = json.loads(document.read_text())
    assert said == json.loads(vectorfile.to_json(both, found))
    vector = said["vectors"][0]
    assert [change["index"] for change in vector["changes"]] == [[feature] for feature in FAULTY]
    assert (vector["inputs"][0]["shape"], vector["divergences"]) == ([1, 20], {"y": 1.0})

    def replayed(version: int, *more: str) -> int:
        return cli.main(["replay", str(folder), "--against", str(version), "--repository", str(repository), *more])

    assert replayed(2) == 0
    assert "all 4 runs of the recorded version gave exactly what was recorded" in capsys.readouterr().out
    assert [replayed(version, "--all-agree") for version in (1, 2, 3)] == [0, 1, 0]
    capsys.readouterr()
    assert cli.main(["gate", "m", "3", "--data", str(recording), "--repository", str(repository), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["outcomes"]["compared"], report["shadow"]) == ("4", "3")


@pytest.mark.parametrize("option", ["--save", "--typical"])
def test_files_without_shrinking_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["divergent", "m", option, "x"]) == 2
    assert "--save and --typical: expected --shrink beside them" in capsys.readouterr().err
