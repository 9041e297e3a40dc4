"""Load generators: programs that call a server for some seconds, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from http2 import framed
from workload import METHOD

FINISHED: Final = re.compile(
    r"finished in (?P<seconds>[\d.]+)(?P<unit>ms|s),.*"
    r"requests: (?P<total>\d+) total, \d+ started, (?P<done>\d+) done, (?P<good>\d+) succeeded.*"
    r" \((?P<data>\d+)\) data",
    re.DOTALL,
)


@dataclass(frozen=True)
class Target:
    """What to call, and how."""

    address: str
    seconds: float
    connections: int
    # Calls in flight on each connection; does not count with a rate.
    streams: int
    # Calls begun in a second, whatever the server does; 0 is as many as are answered.
    rate: float
    # Serialised messages, and the bytes of the answer to any of them.
    requests: Sequence[bytes]
    answer_bytes: int
    # Cores of the generator; empty is any.
    cores: frozenset[int]


@dataclass(frozen=True)
class Sent:
    """What a generator did; latencies and lateness in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    # How late calls with a rate were begun, 99th percentile.
    late: float = 0.0
    # Of the generator itself.
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Generator(Protocol):
    """Calls a target; raises RuntimeError if any answer was an error or of another size."""

    def __call__(self, target: Target, scratch: Path) -> Sent:
        """Returns what was sent; files go into `scratch`."""


def h2load(target: Target, scratch: Path) -> Sent:
    """The one of nghttp2, in C; it sends the same request again and again, and knows no even rate.

    It does not look at grpc-status, but an error has no body, so that the bytes received tell.
    """
    file, log = scratch / "request.bin", scratch / "h2load.log"
    file.write_bytes(framed(target.requests[0]))
    log.unlink(missing_ok=True)
    text, cpu = _run(
        (
            *("h2load", "-D", f"{target.seconds * 1000:.0f}ms", "-c", str(target.connections)),
            *("-m", str(target.streams), "-d", str(file), f"--log-file={log}"),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{target.address}{METHOD}"),
        ),
        target.cores,
    )
    requests, seconds = finished(text, target.answer_bytes)
    p50, p99 = percentiles(log.read_bytes())
    return Sent(requests, seconds, p50, p99, cpu_seconds=cpu)


def streams(target: Target, scratch: Path) -> Sent:
    """The one of this folder, in Python; it sends all requests in turn, and begins calls at a rate if told so."""
    file = scratch / "requests.bin"
    file.write_bytes(b"".join(map(framed, target.requests)))
    numbers = (target.seconds, target.connections, target.streams, target.rate, target.answer_bytes)
    text, cpu = _run((*_python("streams.py"), target.address, METHOD, *map(str, numbers), str(file)), target.cores)
    seen = json.loads(text)
    return Sent(seen["answers"], seen["seconds"], seen["p50"], seen["p99"], seen["late"], cpu)


GENERATORS: Final[Mapping[str, Generator]] = {"h2load": h2load, "streams": streams}


def default() -> str:
    """Returns the name of the fastest generator that is here."""
    return "h2load" if shutil.which("h2load") else "streams"


@contextmanager
def idle(count: int, target: Target, scratch: Path) -> Iterator[None]:
    """Holds connections that have had one call each, until the end of the block."""
    file = scratch / "idle.bin"
    file.write_bytes(framed(target.requests[0]))
    command = (*_python("idle.py"), target.address, METHOD, str(count), str(target.answer_bytes), str(file))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"expected {count} connections to be accepted")
        try:
            yield
        finally:
            process.stdin.close()


def finished(text: str, answer_bytes: int) -> tuple[int, float]:
    """Returns the requests and seconds that h2load printed; raises RuntimeError if an answer was not as it must be."""
    found = FINISHED.search(text)
    if found is None:
        raise RuntimeError(f"h2load gave no result:\n{text}")
    done, good, data = (int(found[name]) for name in ("done", "good", "data"))
    expected = done * len(framed(bytes(answer_bytes)))
    if not done or good != done or data < expected:
        raise RuntimeError(f"h2load: expected {done} answers in {expected} bytes, received {good} in {data}")
    return done, float(found["seconds"]) * (1e-3 if found["unit"] == "ms" else 1)


def percentiles(log: bytes) -> tuple[float, float]:
    """Returns median and 99th percentile of the third column of what h2load logged, microseconds."""
    p50, p99 = np.percentile(np.array(log.split()[2::3], np.int64), (50, 99))
    return float(p50), float(p99)


def _python(program: str) -> tuple[str, ...]:
    return sys.executable, str(Path(__file__).with_name(program))


def _run(command: Sequence[str], cores: frozenset[int]) -> tuple[str, float]:
    """Runs a program on some cores; returns what it printed and the CPU seconds it used."""
    move = partial(os.sched_setaffinity, 0, cores) if cores else None
    before = os.times()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=move)
    after = os.times()
    if ended.returncode:
        raise RuntimeError(f"the load generator failed: {ended.stderr.strip() or ended.stdout.strip()}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return ended.stdout, used
