"""The primary's latency while its shadow worker leaks, crashes, spins or stops, beside the undisturbed run before it.

PYTHONPATH=tests .venv/bin/python benchmarks/faults.py
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx_models as models
from numpy.typing import NDArray
from servers import ServerProcess
from tallying import mirrored

from gnomon_client import AsyncClient, ClientError, Retries

SABOTAGE: Final = str(Path(__file__).parents[1] / "tests" / "sabotage")
CONFIG: Final = "grace = 1.0\n[mirror]\nworker_bytes = 402653184\n"
# Files that tests/sabotage waits for, and what needs none.
FAULTS: Final = ("nothing", "segfault", "leak", "spin", "stop")


@dataclass(frozen=True)
class Window:
    """What one window of requests at a fixed rate saw."""

    # Seconds from when each request was due to its answer, so that waiting behind a slow one counts.
    latencies: NDArray[np.float64]
    errors: int

    def microseconds(self, share: float) -> float:
        """Returns a quantile of the latencies."""
        return float(np.quantile(self.latencies, share)) * 1e6


async def window(address: str, rate: float, seconds: float) -> Window:
    """Sends requests at a fixed rate, whatever becomes of those before."""
    x = np.ones((1, 3), np.float32)
    latencies: list[float] = []
    errors = 0

    async def send(due: float) -> None:
        nonlocal errors
        try:
            await client.infer("m", x)
        except ClientError:
            errors += 1
        else:
            latencies.append(time.perf_counter() - due)

    async with AsyncClient(address, retries=Retries(0), timeout=30) as client, asyncio.TaskGroup() as calls:
        begin = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            calls.create_task(send(due))
    return Window(np.array(latencies), errors)


def faulty(fault: str, server: ServerProcess, folder: Path) -> None:
    """Begins a fault."""
    if fault == "stop":
        for worker in server.children("gnomon_server.shadow"):
            worker.suspend()
    elif fault != "nothing":
        (folder / fault).touch()


def measure(fault: str, rate: float, seconds: float, say: Callable[[str], None]) -> None:
    """Measures one server without and with a fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version in (1, 2):
            models.write(folder / "models", "m", version, models.affine(1.0))
        environment = {"PYTHONPATH": SABOTAGE, "GNOMON_TEST_SABOTAGE": name}
        served = ServerProcess(folder / "models", folder / "state", config=CONFIG, environment=environment)
        with served as server, server.control() as control:
            mirrored(control, "m")
            asyncio.run(window(server.grpc, rate, 1.0))
            before = asyncio.run(window(server.grpc, rate, seconds))
            faulty(fault, server, folder)
            during = asyncio.run(window(server.grpc, rate, seconds))
            (model,) = control.models("m").models
            shadow = next(version for version in model.versions if version.version == 2)
        times = "  ".join(f"{w.microseconds(0.5):6.0f} {w.microseconds(0.99):7.0f}" for w in (before, during))
        say(f"{fault:9} {before.errors + during.errors:6}  {times}  {shadow.state} {shadow.reason}")


def main() -> None:
    """Prints one line a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second (default: 400)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window (default: 5)")
    arguments = parser.parse_args()
    print("fault     errors  before: p50, p99  during: p50, p99 (us)  shadow")
    for fault in FAULTS:
        measure(fault, arguments.rate, arguments.seconds, print)


if __name__ == "__main__":
    main()
