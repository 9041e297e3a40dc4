"""Contenders: servers that answer the same requests from the same ONNX file, each in processes of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import machine
import psutil
from machine import Places
from workload import Workload

from gnomon_client import Control
from gnomon_protos import control_pb2

READY: Final = re.compile(r".* is ready: gRPC ([^ ,\n]+)(?:, HTTP [^ ,]+, control (\S+))?")
# Seconds that a start, and an empty mirror, may take.
PATIENCE: Final = 60.0
LOOK: Final = 0.5
# Last lines of a server's log that an error repeats.
LINES: Final = 20


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    address: str
    # The processes without which nothing is answered.
    serving: tuple[psutil.Process, ...]
    shadows: tuple[psutil.Process, ...] = ()
    # Where its control API is; empty for a bare server.
    control: str = ""

    def outcomes(self, model: str) -> control_pb2.Outcomes:
        """Returns what became of the mirrored requests, once none is on the way."""
        with Control(self.control) as control:
            last, deadline = control.report(model).outcomes, time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                time.sleep(LOOK)
                now = control.report(model).outcomes
                if now == last and not now.pending:
                    return now
                last = now
        raise RuntimeError(f"the mirror did not come to rest: {last.pending} of {last.selected} requests are pending")


@dataclass(frozen=True)
class Contender:
    """A server that can be started."""

    name: str
    # Takes the workload and a scratch folder.
    command: Callable[[Workload, Path], Sequence[str]]
    mirrored: bool = False

    @contextmanager
    def running(self, work: Workload, scratch: Path, places: Places) -> Iterator[Running]:
        """Starts it, waits until it answers and its shadow is ready, and gives it its cores; stops it at the end."""
        log = scratch / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(self.command(work, scratch), stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            found = READY.match(process.stdout.readline())
            if found is None:
                raise RuntimeError("it did not start")
            if self.mirrored:
                _await_shadow(found[2], work.model)
            running = _processes(process.pid, found[1], found[2] or "")
            for owned in running.serving:
                machine.pin(owned, places.server)
            for owned in running.shadows:
                machine.pin(owned, places.everywhere)
            yield running
        except RuntimeError as error:
            said = "\n".join(log.read_text().splitlines()[-LINES:])
            raise RuntimeError(f"{self.name}: {error}\n{said}".rstrip()) from None
        finally:
            _stop(process)


def _bare(kind: str) -> Callable[[Workload, Path], Sequence[str]]:
    program = str(Path(__file__).with_name("bare.py"))
    return lambda work, _: (sys.executable, program, kind, str(work.file))


def _gnomon(repository: Callable[[Workload], Path]) -> Callable[[Workload, Path], Sequence[str]]:
    ports = [part for name in ("--grpc", "--http", "--control") for part in (name, "127.0.0.1:0")]
    command = (sys.executable, "-m", "gnomon_server.cli", "serve")
    return lambda work, scratch: (*command, str(repository(work)), "--state", str(scratch / "state"), *ports)


THREADS: Final = Contender("bare grpcio, threads", _bare("threads"))
ASYNCIO: Final = Contender("bare grpc.aio", _bare("asyncio"))
ALONE: Final = Contender("gnomon, 0 % mirrored", _gnomon(lambda work: work.plain))
MIRRORED: Final = Contender("gnomon, 100 % mirrored", _gnomon(lambda work: work.mirrored), mirrored=True)
# To add one: a Contender whose command says "... is ready: gRPC HOST:PORT" on stdout, and a line here.
CONTENDERS: Final = (THREADS, ASYNCIO, ALONE, MIRRORED)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _await_shadow(address: str, model: str) -> None:
    """Waits until a second version is loaded as a shadow of all requests."""
    deadline = time.monotonic() + PATIENCE
    with Control(address) as control:
        while time.monotonic() < deadline:
            status = control.models(model).models[0]
            states = {version.version: version.state for version in status.versions}
            if any(shadow.sample == 1 and states[shadow.version] == "ready" for shadow in status.route.shadows):
                return
            time.sleep(LOOK)
    raise RuntimeError(f"the shadow did not become ready: {states}")


def _processes(pid: int, address: str, control: str) -> Running:
    root = psutil.Process(pid)
    children = {process: process.cmdline() for process in root.children(recursive=True)}
    shadows = tuple(process for process, line in children.items() if "gnomon_server.shadow" in line)
    return Running(address, (root, *(process for process in children if process not in shadows)), shadows, control)
