"""Peers: servers of others, where they are installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from contenders import Contender, Start
from onnx_session import open_session
from workload import Workload

HERE: Final = Path(__file__).resolve().parent
# Environments that `make peers` makes.
MLSERVER: Final = HERE.parent / ".venv-mlserver"
KSERVE: Final = HERE.parent / ".venv-kserve"
BATCH: Final = 64
TRITON_TYPES: Final = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}


def present(triton: Path | None) -> list[Contender]:
    """Returns the peers that can be started; `triton` is a folder as triton.sh makes it."""
    found = []
    if triton is not None:
        found += [_triton(triton, batching=True), _triton(triton, batching=False)]
    if MLSERVER.exists():
        found.append(Contender("MLServer", _mlserver, lambda _: {"PYTHONPATH": str(HERE)}, exact=False))
    if KSERVE.exists():
        found.append(Contender("KServe", _kserve, exact=False))
    return found


def _triton(folder: Path, *, batching: bool) -> Contender:
    def command(start: Start) -> Sequence[str]:
        repository = start.scratch / "repository"
        model = repository / start.work.model
        (model / "1").mkdir(parents=True)
        (model / "1" / "model.onnx").symlink_to(start.work.file)
        (model / "config.pbtxt").write_text(configuration(start.work, batching=batching))
        places = (f"--model-repository={repository}", f"--backend-directory={folder / 'backends'}")
        off = ("--disable-auto-complete-config", "--allow-http=false", "--allow-metrics=false")
        return (str(folder / "bin" / "tritonserver"), *places, *off, f"--grpc-port={start.port}")

    name = "Triton, dynamic batching" if batching else "Triton"
    return Contender(name, command, lambda _: {"LD_LIBRARY_PATH": str(folder / "lib")}, exact=False)


def configuration(work: Workload, *, batching: bool) -> str:
    """Returns a config.pbtxt: one instance with one thread on the CPU; batching joins what waits, and never waits."""
    session = open_session(work.file)
    lines = [f'name: "{work.model}"', 'backend: "onnxruntime"', f"max_batch_size: {BATCH if batching else 0}"]
    for kind, ports in (("input", session.get_inputs()), ("output", session.get_outputs())):
        lines += [f"{kind} {{ {_port(port, batching=batching)} }}" for port in ports]
    lines.append("instance_group { kind: KIND_CPU count: 1 }")
    for option in ("intra_op_thread_count", "inter_op_thread_count"):
        lines.append(f'parameters {{ key: "{option}" value {{ string_value: "1" }} }}')
    return "\n".join([*lines, "dynamic_batching { }" if batching else ""])


def _port(port: Any, *, batching: bool) -> str:
    """With batching the first dimension goes without saying, and a shape of nothing else has to be spelt [1]."""
    shape = [size if isinstance(size, int) else -1 for size in port.shape]
    if batching:
        shape = shape[1:]
    reshaped = "" if shape else " reshape { shape: [ ] }"
    return f'name: "{port.name}" data_type: {TRITON_TYPES[port.type]} dims: {shape or [1]}{reshaped}'


def _mlserver(start: Start) -> Sequence[str]:
    settings = {
        "host": "127.0.0.1",
        "grpc_port": start.port,
        "http_port": start.others[0],
        "metrics_port": start.others[1],
        # In the serving process: pools and metrics cost it more than this model does.
        "parallel_workers": 0,
        "metrics_endpoint": None,
        "debug": False,
    }
    model = {
        "name": start.work.model,
        "implementation": "mlserver_model.Onnx",
        "parameters": {"uri": str(start.work.file)},
    }
    (start.scratch / "settings.json").write_text(json.dumps(settings))
    (start.scratch / "model-settings.json").write_text(json.dumps(model))
    return str(MLSERVER / "bin" / "mlserver"), "start", str(start.scratch)


def _kserve(start: Start) -> Sequence[str]:
    program = str(HERE / "kserve_model.py")
    python = str(KSERVE / "bin" / "python")
    ports = (f"--grpc_port={start.port}", f"--http_port={start.others[0]}", "--workers=1")
    return python, program, start.work.model, str(start.work.file), *ports
