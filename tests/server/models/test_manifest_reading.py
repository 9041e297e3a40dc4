"""What manifest.json may hold, and what is said of one that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server.models.manifests import golden, spec, write

from gnomon_protos import manifest_pb2
from gnomon_server.errors import LoadError
from gnomon_server.models import manifest
from gnomon_server.models.manifest import Comparison, Manifest
from gnomon_server.models.signature import Signature, TensorSpec


def test_a_folder_without_one_has_the_empty_manifest(tmp_path: Path) -> None:
    assert manifest.read(tmp_path) == Manifest()


def test_everything_that_is_declared_is_read(tmp_path: Path) -> None:
    sample = golden({"x": np.array(["a", "ü"], object)}, {"p": np.array([[0.25, 0.75]], np.float32)})
    write(
        tmp_path,
        manifest_pb2.Manifest(
            format=1,
            model_file="flights.onnx",
            model_digest="sha256:12",
            signature=manifest_pb2.Signature(
                inputs=[spec("x", "BYTES", [-1])],
                outputs=[manifest_pb2.TensorSpec(name="p", datatype="FP32", shape=[-1, 2], classes=["no", "yes"])],
            ),
            comparisons=[
                manifest_pb2.Comparison(output="p", comparator="tv", parameters={"atol": 1e-6}, tolerance=0.01)
            ],
            golden_sample=sample,
        ),
    )
    read = manifest.read(tmp_path)
    assert (read.model_file, read.digest) == ("flights.onnx", "sha256:12")
    assert read.signature == Signature(
        (TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("p", "FP32", (-1, 2), "", ("no", "yes")),)
    )
    assert read.comparisons == (Comparison("p", "tv", {"atol": 1e-6}, 0.01),)
    assert read.golden_inputs["x"].tolist() == ["a", "ü"]
    assert read.golden_outputs["p"].tolist() == [[0.25, 0.75]]


def test_fields_of_later_servers_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 1, "model_file": "model.onnx", "drift": {"x": 1}}')
    assert manifest.read(tmp_path).model_file == "model.onnx"


MODEL: dict[str, Any] = {"format": 1, "model_file": "model.onnx"}
TENSOR = {"name": "x", "datatype": "FP32", "shape": [3], "raw": "AAAA"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "manifest.json is not a manifest: "),
        ("[]", "manifest.json: model_file: expected a file name, received ''"),
        ("{torn", "manifest.json is not a manifest: "),
        (b"\xff\xfe", "manifest.json cannot be read: "),
        (json.dumps({**MODEL, "format": "one"}), "manifest.json is not a manifest: "),
        (json.dumps({**MODEL, "format": 2}), "manifest.json: expected format 1, received 2: upgrade the server"),
        (json.dumps({"format": 1}), "manifest.json: model_file: expected a file name, received ''"),
        (
            json.dumps({**MODEL, "model_file": "../other/model.onnx"}),
            "manifest.json: model_file: expected a file name, received '../other/model.onnx'",
        ),
        (json.dumps({**MODEL, "model_file": "/etc/passwd"}), "manifest.json: model_file: expected a file name"),
        (json.dumps({**MODEL, "model_file": ".."}), "manifest.json: model_file: expected a file name"),
        (
            json.dumps({**MODEL, "golden_sample": {"inputs": [TENSOR]}}),
            "manifest.json is not a manifest: expected 12 bytes for FP32 [3], received 3",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused_in_one_line(text: str | bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LoadError) as raised:
        manifest.read(tmp_path)
    assert str(raised.value).startswith(reason)
    assert "\n" not in str(raised.value)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(LoadError, match=r"manifest\.json cannot be read"):
        manifest.read(tmp_path)
