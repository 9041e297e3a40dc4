"""Load generators: programs that keep calls in flight for some seconds, each in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from workload import METHOD

STREAMS: Final = 8
_FINISHED: Final = re.compile(
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
    concurrency: int
    # Serialised messages, and the bytes of the answer to any of them.
    requests: Sequence[bytes]
    answer_bytes: int
    # Cores of the generator; empty is any.
    cores: frozenset[int]

    @property
    def connections(self) -> int:
        """Connections, each with at most 8 calls in flight."""
        return -(-self.concurrency // STREAMS)

    @property
    def streams(self) -> int:
        """Calls in flight on each connection."""
        return self.concurrency // self.connections


@dataclass(frozen=True)
class Sent:
    """What a generator did."""

    requests: int
    seconds: float
    # Of the generator itself.
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


class Generator(Protocol):
    """Calls a target; raises RuntimeError if any answer was an error or of another size."""

    def __call__(self, target: Target, scratch: Path) -> Sent:
        """Returns what was sent; files go into `scratch`."""


def h2load(target: Target, scratch: Path) -> Sent:
    """The one of nghttp2, in C; it sends the same request again and again.

    It does not look at grpc-status, but an error has no body, so that the bytes received tell.
    """
    file = scratch / "request.bin"
    file.write_bytes(_frame(target.requests[0]))
    text, cpu = _run(
        [
            *(
                "h2load",
                "-D",
                f"{target.seconds * 1000:.0f}ms",
                "-c",
                str(target.connections),
                "-m",
                str(target.streams),
            ),
            *("-d", str(file), "-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://{target.address}{METHOD}",
        ],
        target.cores,
    )
    found = _FINISHED.search(text)
    if found is None:
        raise RuntimeError(f"h2load gave no result:\n{text}")
    done, good, data = (int(found[name]) for name in ("done", "good", "data"))
    expected = done * len(_frame(bytes(target.answer_bytes)))
    if not done or good != done or data < expected:
        raise RuntimeError(f"h2load: expected {done} answers in {expected} bytes, received {good} in {data}")
    return Sent(done, float(found["seconds"]) * (1e-3 if found["unit"] == "ms" else 1), cpu)


def streams(target: Target, scratch: Path) -> Sent:
    """The one of this folder, in Python over ngh2; it sends all requests in turn and checks every status."""
    file = scratch / "requests.bin"
    file.write_bytes(b"".join(map(_frame, target.requests)))
    numbers = (target.seconds, target.connections, target.streams, target.answer_bytes)
    program = str(Path(__file__).with_name("streams.py"))
    text, cpu = _run([sys.executable, program, target.address, *map(str, numbers), str(file)], target.cores)
    answers, seconds = text.split()
    return Sent(int(answers), float(seconds), cpu)


GENERATORS: Final[Mapping[str, Generator]] = {"h2load": h2load, "streams": streams}


def default() -> str:
    """Returns the name of the fastest generator that is here."""
    return "h2load" if shutil.which("h2load") else "streams"


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


def _frame(message: bytes) -> bytes:
    # gRPC over HTTP/2, "Length-Prefixed-Message": a compressed flag and a big-endian length.
    return b"\0" + len(message).to_bytes(4) + message
