from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from trained_models import frame, mixed_pipeline, numbers

from gnomon_converters import ConversionError, source
from gnomon_server.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model and its sample."""
    rows, labels = frame()
    joblib.dump(mixed_pipeline().fit(rows, labels), tmp_path / "churn.joblib")
    rows.assign(left=labels).to_csv(tmp_path / "holdout.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def convert(*arguments: str) -> int:
    return main(["convert", *arguments, "--name", "churn", "--repository", "models"])


def test_a_file_becomes_a_version_and_the_screen_says_how_it_agreed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert("churn.joblib", "--sample", "holdout.csv", "--labels", "left") == 0
    said = capsys.readouterr().out
    assert "churn version 1 is in models/churn/1" in said
    assert "verified on 1200 rows, 8 of them kept as golden sample" in said
    assert "predicted_label: 0 flips, 0 changes between equally likely classes" in said
    assert "accuracy on the labels: 0." in said
    assert (folder / "models/churn/1/model.onnx").is_file()


def test_json_tells_the_same_to_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert("churn.joblib", "--sample", "holdout.csv", "--labels", "left", "--version", "4", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["version"], said["folder"]) == ("churn", 4, "models/churn/4")
    assert said["verification"]["outputs"][1]["output"] == "probabilities"
    written = json.loads((folder / "models/churn/4/manifest.json").read_text())
    assert written["model_digest"] == said["digest"]
    assert written["lineage"]["source_digest"].startswith("sha256:")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.joblib", "--sample", "holdout.csv"], "expected a joblib or pickle file or module:attribute"),
        (["holdout.csv", "--sample", "holdout.csv"], "holdout.csv is no joblib or pickle file that loads here"),
        (["no_such_module_here:model", "--sample", "holdout.csv"], "module no_such_module_here does not import"),
        (["json:model", "--sample", "holdout.csv"], "module json has no model"),
        (["churn.joblib", "--sample", "absent.csv"], "absent.csv cannot be read: No such file or directory"),
        (["churn.joblib", "--sample", "churn.joblib"], "expected a file ending in .csv, .parquet, .npy"),
        (["churn.joblib", "--sample", "holdout.csv", "--labels", "gone"], "labels: expected a column of holdout.csv"),
        (["churn.joblib", "--sample", "holdout.csv", "--tolerance", "-1"], "tolerance: expected a number of at least"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_2(
    arguments: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(*arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (folder / "models").exists()


def test_nothing_is_converted_without_a_sample(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        convert("churn.joblib")
    assert "required: --sample" in capsys.readouterr().err
    assert not (folder / "models").exists()


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    assert "gnomon convert churn.joblib --name churn" in capsys.readouterr().out


def test_a_model_may_stand_in_a_module_of_the_working_directory(folder: Path) -> None:
    (folder / "training_of_churn.py").write_text("class best:\n    model = 'a model'\n")
    assert source.load("training_of_churn:best.model") == source.Source("a model", "")


def test_a_pickle_file_loads_too(folder: Path) -> None:
    (folder / "m.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert source.load("m.pkl").model == {"a": 1}


def test_a_file_that_needs_a_missing_module_says_which(folder: Path) -> None:
    (folder / "m.pkl").write_bytes(b"cno_such_module_here\nThing\n.")
    with pytest.raises(ConversionError, match=r"m\.pkl needs no_such_module_here, which is not installed here"):
        source.load("m.pkl")


def test_an_array_is_a_sample_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = numbers()
    joblib.dump(LogisticRegression().fit(x, y), folder / "plain.joblib")
    np.save(folder / "rows.npy", x)
    assert convert("plain.joblib", "--sample", "rows.npy") == 0
    rows: Any = source.read_sample("rows.npy", None)[0]
    assert np.array_equal(rows, x)
