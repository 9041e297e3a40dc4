"""A whole gnomon server for tests: the real command, real processes, real ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from gnomon_client import Client, Control

READY = re.compile(r"gnomon is ready: gRPC (\S+), HTTP http://(\S+)/, control (\S+)")


class ServerProcess:
    """`gnomon serve` on free ports; leaving the block terminates it and checks that it drained."""

    def __init__(
        self,
        repository: Path,
        state: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        config: str = "",
    ) -> None:
        self.repository = repository
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        file = state / "gnomon.toml"
        file.write_text(config)
        ports = [part for name in ("--grpc", "--http", "--control") for part in (name, "127.0.0.1:0")]
        self._command = [
            *(str(Path(sys.executable).with_name("gnomon")), "serve", str(repository), "--state", str(state)),
            *("--config", str(file), *ports, *flags),
        ]
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self.grpc = self.http = self.control_address = ""

    def start(self, seconds: float = 60) -> Self:
        """Starts it and waits for its ready line."""
        self.process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # grpc-core logs what it cannot read as it came.
            errors="backslashreplace",
        )
        ready = threading.Event()
        threading.Thread(target=self._read, args=(self.process, ready), daemon=True).start()
        if not ready.wait(seconds) or not self.grpc:
            self.kill()
            raise AssertionError("the server did not become ready:\n" + "".join(self.log))
        return self

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.log.append(line)
            if match := READY.match(line):
                self.grpc, self.http, self.control_address = match.groups()
                ready.set()
        process.stdout.close()
        ready.set()

    @property
    def pid(self) -> int:
        """The control process."""
        assert self.process is not None
        return self.process.pid

    def children(self, module: str = "gnomon_server") -> list[psutil.Process]:
        """The children whose command line names a module, such as gnomon_server.shadow."""
        found = []
        for child in psutil.Process(self.pid).children(recursive=True):
            try:
                if any(part.startswith(module) for part in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def client(self) -> Client:
        """A new client of the inference service."""
        return Client(self.grpc)

    def control(self) -> Control:
        """A new client of the control API."""
        return Control(self.control_address)

    def gnomon(self, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """What the command says of this server, with `text` on its standard input."""
        command = [str(Path(sys.executable).with_name("gnomon")), *words, "--control", self.control_address]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    def kill(self) -> None:
        """SIGKILL to control and every child at once."""
        if self.process is None:
            return
        victims = [psutil.Process(self.process.pid), *self.children()] if self.process.poll() is None else []
        for victim in victims:
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)

    def terminate(self, seconds: float = 60) -> int:
        """SIGTERM; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        try:
            code = self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        if kind is None:
            assert code == 0, "".join(self.log)


def eventually(condition: Callable[[], object], seconds: float = 30, every: float = 0.05) -> None:
    """Waits until a condition holds; fails with what it last gave if it never does."""
    deadline = time.monotonic() + seconds
    while not (last := condition()):
        assert time.monotonic() < deadline, f"never came true: {last!r}"
        time.sleep(every)
