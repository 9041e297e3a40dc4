"""onnxruntime without a server: `python benchmarks/alone.py MODEL.onnx REQUESTS SECONDS` runs one row after the other.

REQUESTS holds the inputs as numpy saves them. The last line it prints is JSON: runs per second, and in microseconds the
median and 99th percentile of a run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Final

import numpy as np
from machine import Places
from onnx_session import open_session
from workload import Workload

ALONE: Final = "onnxruntime alone"


@dataclass(frozen=True)
class Alone:
    """The loop, on the server's core."""

    work: Workload
    places: Places
    seconds: float

    def measured(self) -> tuple[float, float, float]:
        """Returns runs per second, and median and 99th percentile of a run in microseconds."""
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.npy"
            np.save(rows, self.work.rows)
            command = (sys.executable, __file__, str(self.work.file), str(rows), str(self.seconds))
            move = partial(os.sched_setaffinity, 0, self.places.server) if self.places.server else None
            done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=move)
        seen = json.loads(done.stdout)
        return seen["per_second"], seen["p50"], seen["p99"]


def main() -> None:
    """Runs the command line."""
    file, rows, seconds = sys.argv[1:]
    session = open_session(file)
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    inputs = cycle([{name: row} for row in np.split(np.load(rows), len(np.load(rows)))])
    begin = time.perf_counter()
    took, now = [], begin
    while now < begin + float(seconds):
        session.run(outputs, next(inputs))
        before, now = now, time.perf_counter()
        took.append(now - before)
    p50, p99 = np.percentile(took, (50, 99)) * 1e6
    print(json.dumps({"per_second": len(took) / (now - begin), "p50": p50, "p99": p99}))


if __name__ == "__main__":
    main()
