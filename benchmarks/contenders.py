"""Contenders: servers that answer the same requests from the same ONNX file, each in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import machine
import psutil
from machine import Places
from workload import Workload

from gnomon_client import ClientError, Control
from gnomon_protos import control_pb2

# Seconds that a start, and an empty mirror, may take.
PATIENCE: Final = 60.0
LOOK: Final = 0.2
# Last lines of a server's log that an error repeats.
LINES: Final = 20
# Share of the requests that are traced where telemetry is on.
TRACED: Final = 0.01


@dataclass(frozen=True)
class Start:
    """What a contender may use to start."""

    work: Workload
    scratch: Path
    # For gRPC, and two for whatever else it listens on.
    port: int
    others: tuple[int, int]
    # Where telemetry goes.
    receiver: str


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    address: str
    # The processes without which nothing is answered.
    serving: tuple[psutil.Process, ...]
    shadows: tuple[psutil.Process, ...] = ()
    # Where its control API is; empty for others.
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
    command: Callable[[Start], Sequence[str]]
    environment: Callable[[Start], Mapping[str, str]] = field(default=lambda _: {})
    # Whether its answers are those of onnxruntime in shape and bits.
    exact: bool = True
    # "equal" or "heavy": it mirrors everything.
    shadow: str = ""
    # Whether it has a control API.
    controlled: bool = False
    # Whether it shares every core with the generator.
    spread: bool = False

    @contextmanager
    def running(self, work: Workload, scratch: Path, places: Places, receiver: str) -> Iterator[Running]:
        """Starts it, waits until it answers and its shadow is ready, and gives it its cores; stops it at the end."""
        port, *others = machine.free_ports(3)
        start = Start(work, scratch, port, (others[0], others[1]), receiver)
        log = scratch / "log"
        with log.open("w") as output:
            environment = {**os.environ, **self.environment(start)}
            process = subprocess.Popen(
                self.command(start), stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=scratch
            )
        try:
            yield self._ready(process, start, places)
        except RuntimeError as error:
            said = "\n".join(log.read_text().splitlines()[-LINES:])
            raise RuntimeError(f"{self.name}: {error}\n{said}".rstrip()) from None
        finally:
            _stop(process)

    def _ready(self, process: subprocess.Popen[bytes], start: Start, places: Places) -> Running:
        address = f"127.0.0.1:{start.port}"
        control = f"127.0.0.1:{start.others[0]}" if self.controlled else ""
        _await(lambda: start.work.is_answered(address), process)
        if self.shadow:
            _await(lambda: _mirrors(control, start.work.model), process)
        serving, shadows = _processes(process.pid)
        for owned in serving:
            machine.pin(owned, places.everywhere if self.spread else places.server)
        for owned in shadows:
            machine.pin(owned, places.everywhere)
        return Running(address, serving, shadows, control)


def _bare(kind: str) -> Callable[[Start], Sequence[str]]:
    program = str(Path(__file__).with_name("bare.py"))
    return lambda start: (sys.executable, program, kind, str(start.work.file), str(start.port))


def _gnomon(name: str, *flags: str, shadow: str = "", telemetry: bool = True, spread: bool = False) -> Contender:
    def command(start: Start) -> Sequence[str]:
        repository, state = start.work.repository(shadow or "none"), start.scratch / "state"
        ports = zip(("--grpc", "--control", "--http"), (start.port, *start.others), strict=True)
        where = [part for name, port in ports for part in (name, f"127.0.0.1:{port}")]
        return (
            *(sys.executable, "-m", "gnomon_server.cli", "serve", str(repository)),
            "--state",
            str(state),
            *where,
            *flags,
        )

    def environment(start: Start) -> Mapping[str, str]:
        if not telemetry:
            return {"OTEL_SDK_DISABLED": "true"}
        sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": str(TRACED)}
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": start.receiver, **sampler}

    return Contender(name, command, environment, shadow=shadow, controlled=True, spread=spread)


THREADS: Final = Contender("bare grpcio, threads", _bare("threads"))
ASYNCIO: Final = Contender("bare grpc.aio", _bare("asyncio"))
# All of them with metrics and 1 % traces on, but for the one that says otherwise.
GNOMON: Final = _gnomon("gnomon")
GRPCIO: Final = _gnomon("gnomon --transport grpcio", "--transport", "grpcio")
EQUAL: Final = _gnomon("gnomon, equal shadow", shadow="equal")
HEAVY: Final = _gnomon("gnomon, heavy shadow", shadow="heavy")
SILENT: Final = _gnomon("gnomon, telemetry off", telemetry=False)
ONE: Final = _gnomon("gnomon, 1 frontend", spread=True)
TWO: Final = _gnomon("gnomon, 2 frontends", "--workers", "2", spread=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Not every server takes its children with it.
    for child in psutil.wait_procs(children, timeout=1)[1]:
        child.kill()


def _await(holds: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if process.poll() is not None:
            raise RuntimeError(f"it ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError("it did not become ready")
        time.sleep(LOOK)


def _mirrors(address: str, model: str) -> bool:
    """Returns whether a second version is loaded as a shadow of all requests."""
    try:
        with Control(address) as control:
            status = control.models(model).models[0]
    except ClientError:
        return False
    states = {version.version: version.state for version in status.versions}
    return any(shadow.sample == 1 and states.get(shadow.version) == "ready" for shadow in status.route.shadows)


def _processes(pid: int) -> tuple[tuple[psutil.Process, ...], tuple[psutil.Process, ...]]:
    root = psutil.Process(pid)
    children = {process: process.cmdline() for process in root.children(recursive=True)}
    shadows = tuple(process for process, line in children.items() if "gnomon_server.shadow" in line)
    return (root, *(process for process in children if process not in shadows)), shadows
