"""A real Triton with the models that the cases call, from its binary in the wheel of nvidia-pytriton.

Its Python backend needs Debian's Python 3.11, as its stub wants libpython3.11.so; numpy is the environment's own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from raw_calls import SERVICE, channel, sent
from servers import eventually

ENVIRONMENT = Path(__file__).parents[2] / ".venv-triton"
# Of each model: its inputs and outputs with Triton's datatypes, and what its outputs are.
Tensors = dict[str, tuple[str, int | None]]
MODELS: dict[str, tuple[Tensors, Tensors, str]] = {
    "line": ({"x": ("FP32", 3)}, {"y": ("FP32", 3)}, "x * numpy.float32(2)"),
    "sum": ({"a": ("FP32", 3), "b": ("FP32", 3)}, {"y": ("FP32", 3)}, "a + b"),
    "texts": ({"x": ("STRING", 3)}, {"y": ("STRING", 3)}, "x"),
    "truths": ({"x": ("BOOL", 3)}, {"y": ("BOOL", 3)}, "x"),
    "small": ({"x": ("INT8", 3)}, {"y": ("INT8", 3)}, "x"),
    "halves": ({"x": ("FP16", 3)}, {"y": ("FP16", 3)}, "x"),
    "scores": (
        {"x": ("FP32", 3)},
        {"label": ("INT64", None), "probabilities": ("FP32", 2)},
        "(numpy.ones(len(x), numpy.int64), numpy.tile(numpy.float32([0, 1]), (len(x), 1)))",
    ),
}
PROGRAM = """
import sys

sys.path.insert(0, {packages!r})
import numpy
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            inputs = {{name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in {inputs!r}}}
            values = eval({formula!r}, {{"numpy": numpy}}, inputs)
            values = values if isinstance(values, tuple) else (values,)
            asked = request.requested_output_names()
            tensors = [triton.Tensor(name, value) for name, value in zip({outputs!r}, values) if name in asked]
            answers.append(triton.InferenceResponse(tensors))
        return answers
"""


@contextmanager
def triton(folder: Path) -> Iterator[str]:
    """Runs it on a free port until the end of the block; yields its address."""
    packages = next(ENVIRONMENT.glob("lib/python3.11/site-packages"))
    home = packages / "pytriton" / "tritonserver"
    _write_models(folder / "models", packages)
    shutil.copytree(home / "backends", folder / "backends")
    shutil.copy(home / "python_backend_stubs" / "3.11" / "triton_python_backend_stub", folder / "backends" / "python")
    port = _free_port()
    command = [
        *(home / "bin" / "tritonserver", "--model-repository", folder / "models"),
        *("--backend-directory", folder / "backends", "--grpc-address", "127.0.0.1", "--grpc-port", port),
        *("--allow-http", "false", "--allow-metrics", "false"),
    ]
    libraries = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs")}
    with (folder / "triton.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], env={**os.environ, **libraries}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        eventually(lambda: _ready(f"127.0.0.1:{port}", process, folder / "triton.log"))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _write_models(folder: Path, packages: Path) -> None:
    for name, (inputs, outputs, formula) in MODELS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        program = PROGRAM.format(packages=str(packages), inputs=list(inputs), outputs=list(outputs), formula=formula)
        (version / "model.py").write_text(program)
        sides = [
            f"{side} [ {', '.join(_tensor(*each) for each in tensors.items())} ]"
            for side, tensors in (("input", inputs), ("output", outputs))
        ]
        (folder / name / "config.pbtxt").write_text("\n".join(['backend: "python"', "max_batch_size: 0", *sides]))


def _tensor(name: str, declared: tuple[str, int | None]) -> str:
    datatype, width = declared
    dims = "-1" if width is None else f"-1, {width}"
    return f'{{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ] }}'


def _ready(address: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, "\n".join(line for line in log.read_text().splitlines() if line.startswith("E"))[
        :3000
    ]
    try:
        with channel(address) as wire:
            return bool(sent(wire, SERVICE + "ServerReady", b"", 1))
    except grpc.RpcError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
