"""Our proto beside those that clients were generated from: the same fields and methods, but for known dialects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from foreign.programs import ROOT

SCRIPT = Path(__file__).with_name("print_fields.py")
LOAD = ("inference.RepositoryModelLoadRequest.model_name", "inference.RepositoryModelUnloadRequest.model_name")
DIALECTS: dict[str, tuple[Path, str, set[str]]] = {
    "Triton": (Path(sys.executable), "tritonclient.grpc.service_pb2", set()),
    # Its fields of loading are numbered in another way, so that only its own servers load by its client.
    "KServe": (ROOT / ".venv-kserve/bin/python", "kserve.protocol.grpc.grpc_predict_v2_pb2", set(LOAD)),
    # Its stream answers with bare responses.
    "MLServer": (
        ROOT / ".venv-mlserver/bin/python",
        "mlserver.grpc.dataplane_pb2",
        {"inference.GRPCInferenceService.ModelStreamInfer"},
    ),
}
# How many fields only they have.
THEIRS = {
    "Triton": 0,
    # Answers to loading and unloading, which are empty here.
    "KServe": 4,
    # Parameters of metadata.
    "MLServer": 6,
}


def declared(python: Path, module: str) -> dict[str, str]:
    done = subprocess.run(
        [str(python), "-W", "ignore", str(SCRIPT), module], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", DIALECTS)
def test_clients_were_generated_from_the_same_fields_and_methods(name: str) -> None:
    python, module, known = DIALECTS[name]
    ours, theirs = declared(Path(sys.executable), "gnomon_protos.inference_pb2"), declared(python, module)
    shared = ours.keys() & theirs.keys()
    assert {field for field in shared if ours[field] != theirs[field]} == known
    assert len(theirs.keys() - ours.keys()) == THEIRS[name]
