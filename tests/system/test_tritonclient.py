"""Triton's own client gets from gnomon what onnxruntime gives, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models as models
import pytest
from onnx import TensorProto
from servers import ServerProcess

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

SCRIPT = Path(__file__).parents[1] / "tritonclient_calls.py"
NUMBERS = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
TEXTS = np.array([["", "a", "grün"], ["\x00nul", "in\x00side", "x" * 5000]])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    models.write(folder, "scores", 1, models.classifier(0.25))
    models.write(folder, "texts", 1, models.identity(TensorProto.STRING))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(repository, tmp_path_factory.mktemp("triton-state")) as running:
        yield running


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_tritonclient_reads_everything_and_gets_the_numbers_of_onnxruntime(
    kind: str, server: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "inputs.npz"
    np.savez(file, numbers=NUMBERS, texts=TEXTS)
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), kind, server.grpc, str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    session = onnxruntime.InferenceSession(str(repository / "scores/1/model.onnx"), providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"x": NUMBERS})
    got = np.load(tmp_path / "inputs.out.npz")

    for name, expected in (("label", label), ("probabilities", probabilities), ("asked", probabilities)):
        assert got[name].dtype == expected.dtype
        assert got[name].tobytes() == expected.tobytes()
    assert said["texts"] == TEXTS.tolist()
    assert (said["live"], said["ready"], said["model_ready"], said["version_ready"]) == (True, True, True, True)
    assert said["unknown_ready"] is False
    assert (said["id"], said["version"], said["outputs"], said["asked"]) == (
        *("one", "1", ["label", "probabilities"]),
        ["probabilities"],
    )
    assert said["refused"] == ["StatusCode.NOT_FOUND", "model 'nobody' not found"]
    assert (said["server"]["name"], said["server"]["version"]) == ("gnomon", version("gnomon"))
    assert said["metadata"] == {
        "name": "scores",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": ["-1"]},
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "2"]},
        ],
    }
