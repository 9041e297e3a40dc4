from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from sklearn.linear_model import LogisticRegression
from trained_models import frame, mixed_pipeline, numbers

from gnomon_converters import ConversionError, publish
from gnomon_converters.repository import next_version, write
from gnomon_protos import manifest_pb2, tensors
from gnomon_server.models import servable
from gnomon_server.models.sources.directory import Directory
from gnomon_server.wire.plans import VersionRef

MODEL = {"model.onnx": b"model"}

# Publishes until the fsync of the given number, says so, and waits there for ever.
STOPS_AT_FSYNC = """
import os, sys
from pathlib import Path
from gnomon_converters.repository import write

stop, calls, fsync = int(sys.argv[2]), iter(range(1, 99)), os.fsync

def stopping(descriptor):
    fsync(descriptor)
    if next(calls) == stop:
        print("stopped", flush=True)
        sys.stdin.read()

os.fsync = stopping
write(Path(sys.argv[1]), "m", None, {"model.onnx": b"model"}, lambda number: ("manifest.json", "{}"))
"""


def manifest(number: int) -> tuple[str, str]:
    return "manifest.json", json.dumps({"version": number})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    rows, labels = frame()
    root = tmp_path_factory.mktemp("models")
    model = mixed_pipeline().fit(rows, labels)
    return publish(
        model, name="churn", repository=root, sample=rows, labels=labels, author="Ada", description="first, für alle"
    )


@pytest.fixture(scope="module")
def written(done: Any) -> manifest_pb2.Manifest:
    return json_format.Parse((done.folder / "manifest.json").read_text(), manifest_pb2.Manifest())


def test_the_manifest_names_the_model_and_its_digest(done: Any, written: manifest_pb2.Manifest) -> None:
    content = (done.folder / written.model_file).read_bytes()
    assert written.model_digest == done.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (written.format, written.name, written.version) == (1, "churn", 1)
    assert done.folder.parts[-2:] == ("churn", "1")


def test_the_manifest_has_the_signature_with_meanings_and_classes(written: manifest_pb2.Manifest) -> None:
    inputs = [(spec.name, spec.datatype, list(spec.shape), spec.meaning) for spec in written.signature.inputs]
    assert inputs == [
        ("air time", "FP32", [-1, 1], "feature"),
        ("stops", "FP32", [-1, 1], "feature"),
        ("carrier", "BYTES", [-1, 1], "feature"),
        ("label", "BYTES", [-1, 1], "feature"),
    ]
    label, probabilities = written.signature.outputs
    assert (label.name, label.datatype, list(label.shape), label.meaning) == ("predicted_label", "BYTES", [-1], "label")
    assert (probabilities.datatype, list(probabilities.shape)) == ("FP32", [-1, 2])
    assert list(label.classes) == list(probabilities.classes) == ["early", "late"]


def test_the_manifest_says_how_versions_are_compared(written: manifest_pb2.Manifest) -> None:
    label, probabilities = written.comparisons
    assert (label.comparator, dict(label.parameters), label.tolerance) == ("label", {"tie_eps": 1e-6}, 0.0)
    assert label.probabilities == probabilities.output == "probabilities"
    assert (probabilities.comparator, probabilities.tolerance) == ("tv", 0.1)


def test_the_manifest_says_how_the_conversion_agreed(done: Any, written: manifest_pb2.Manifest) -> None:
    assert written.verification.rows == done.verification.rows == 1200
    for message, output in zip(written.verification.outputs, done.verification.outputs, strict=True):
        assert message.max_difference == output.max_difference <= output.tolerance == message.tolerance
    text = json.loads((done.folder / "manifest.json").read_text())
    assert text["verification"]["outputs"][0]["label_flips"] == "0"


def test_the_manifest_says_where_the_version_comes_from(done: Any, written: manifest_pb2.Manifest) -> None:
    lineage = written.lineage
    age = datetime.now(UTC) - datetime.fromisoformat(lineage.created_at)
    assert timedelta(seconds=-1) < age < timedelta(hours=1)
    assert lineage.created_at.endswith("Z")
    assert (lineage.author, lineage.description) == ("Ada", "first, für alle")
    assert lineage.source_type == "sklearn.pipeline.Pipeline"
    assert lineage.sample_digest.startswith("sha256:")
    packages = {"python", "scikit-learn", "skl2onnx", "onnx", "onnxruntime", "numpy"}
    assert set(lineage.framework_versions) == packages
    assert dict(lineage.metrics) == done.metrics
    assert lineage.metrics["accuracy"] > 0.5


def test_the_golden_sample_is_what_the_model_gives(done: Any, written: manifest_pb2.Manifest) -> None:
    golden = written.golden_sample
    assert done.golden_rows == 8
    assert all(tensor.shape[0] == 8 for tensor in (*golden.inputs, *golden.outputs))
    version = servable.load(VersionRef("churn", 1, str(done.folder)))
    inputs = {
        tensor.name: tensors.to_text(array) if tensor.datatype == "BYTES" else array
        for tensor in golden.inputs
        for array in [tensors.from_message(tensor)]
    }
    label, probabilities = version.run(inputs, version.signature.output_names)
    assert np.array_equal(probabilities, tensors.from_message(golden.outputs[1]))
    assert list(label) == list(tensors.to_text(tensors.from_message(golden.outputs[0])))
    assert version.coalescable


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    x, y = numbers()
    model = LogisticRegression().fit(x, y)
    one, two = (publish(model, name="m", repository=tmp_path, sample=x) for _ in range(2))
    assert (one.version, two.version) == (1, 2)
    assert one.digest == two.digest


def test_a_regressor_is_compared_by_closeness(tmp_path: Path) -> None:
    x, y = numbers()
    from sklearn.linear_model import Ridge

    done = publish(Ridge().fit(x, y), name="m", repository=tmp_path, sample=x)
    written = json_format.Parse((done.folder / "manifest.json").read_text(), manifest_pb2.Manifest())
    (comparison,) = written.comparisons
    assert (comparison.output, comparison.comparator) == ("value", "isclose")
    assert dict(comparison.parameters) == {"rtol": 1e-3, "atol": 1e-6}
    assert [list(spec.shape) for spec in written.signature.inputs] == [[-1, 4]]


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "-a", "a\n", "ä"])
def test_a_name_that_is_no_folder_name_is_refused(name: str, tmp_path: Path) -> None:
    x, y = numbers()
    with pytest.raises(ConversionError, match="name: expected letters"):
        publish(LogisticRegression().fit(x, y), name=name, repository=tmp_path, sample=x)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [0, -1, 10**18])
def test_a_version_that_is_no_positive_number_is_refused(version: int, tmp_path: Path) -> None:
    x, y = numbers()
    with pytest.raises(ConversionError, match="version: expected a positive"):
        publish(LogisticRegression().fit(x, y), name="m", repository=tmp_path, sample=x, version=version)


def test_an_existing_version_is_refused_and_stays(tmp_path: Path) -> None:
    x, y = numbers()
    model = LogisticRegression().fit(x, y)
    first = publish(model, name="m", repository=tmp_path, sample=x, version=7)
    before = (first.folder / "manifest.json").read_bytes()
    with pytest.raises(ConversionError, match="version 7 of 'm' exists"):
        publish(model, name="m", repository=tmp_path, sample=x, version=7)
    assert (first.folder / "manifest.json").read_bytes() == before
    assert publish(model, name="m", repository=tmp_path, sample=x).version == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_numbers_count_from_the_highest_version_and_pass_over_other_names(tmp_path: Path) -> None:
    for name in ("2", "10", "config.pbtxt", "x11", "012"):
        (tmp_path / name).mkdir()
    assert next_version(tmp_path) == 11
    assert next_version(tmp_path / "absent") == 1


def test_publishers_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    folders: list[tuple[Path, int]] = []

    def publisher() -> None:
        barrier.wait()
        folders.append(write(tmp_path, "m", None, MODEL, manifest))

    threads = [threading.Thread(target=publisher) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for _, number in folders) == list(range(1, 9))
    assert all(json.loads((folder / "manifest.json").read_text()) == {"version": n} for folder, n in folders)


def test_a_number_taken_at_the_last_moment_is_left_to_its_owner(tmp_path: Path) -> None:
    def overtaken(number: int) -> tuple[str, str]:
        if number < 3:
            write(tmp_path, "m", number, {"model.onnx": b"faster"}, manifest)
        return manifest(number)

    assert write(tmp_path, "m", None, MODEL, overtaken) == (tmp_path / "m" / "3", 3)
    assert (tmp_path / "m" / "1" / "model.onnx").read_bytes() == b"faster"
    assert json.loads((tmp_path / "m" / "3" / "manifest.json").read_text()) == {"version": 3}
    with pytest.raises(ConversionError, match="version 1 of 'm' exists"):
        write(tmp_path, "m", 1, MODEL, manifest)


@pytest.mark.parametrize("fsync", [1, 2, 3], ids=["model written", "manifest written", "folder on disk"])
def test_a_publisher_killed_midway_leaves_nothing_visible(fsync: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPS_AT_FSYNC, str(tmp_path), str(fsync)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stopped\n"
        child.kill()
    assert Directory(str(tmp_path)).versions() == frozenset()
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []
    assert write(tmp_path, "m", None, MODEL, manifest)[1] == 1


def test_a_repository_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversionError, match="cannot be written"):
        write(tmp_path / "file", "m", None, MODEL, manifest)


def test_importing_the_converters_loads_no_framework_and_switches_telemetry_off() -> None:
    code = (
        "import os, sys; os.environ.pop('ORT_DISABLE_TELEMETRY', None); import gnomon_converters;"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], sorted({'sklearn', 'skl2onnx', 'onnx', 'onnxruntime', 'pandas',"
        " 'gnomon_server', 'gnomon_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"
