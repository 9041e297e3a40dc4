"""The demo's processes: a server and an application, begun and ended with a block."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from gnomon_server.cli.demo.traffic import Counts
from gnomon_server.errors import NotReady

# The requests are flights in shuffled order, each asked about once: independent of each other and without a cycle of
# the day, so that each is an observation and no duration is needed. Real traffic wants the defaults.
POLICY: Final = """\
[policy]
tolerance = 0.05
min_requests = {least}
min_duration = 0
block = 1
"""
READY: Final = re.compile(r"gnomon is ready: gRPC (\S+), HTTP (\S+), control (\S+)")


class ServerProcess:
    """`gnomon serve` on free ports of this host, with a state of its own."""

    def __init__(self, folder: Path, repository: Path, least: int) -> None:
        (folder / "gnomon.toml").write_text(POLICY.format(least=least))
        anywhere = [part for name in ("--grpc", "--http", "--control") for part in (name, "127.0.0.1:0")]
        places = ["--state", str(folder / "state"), "--config", str(folder / "gnomon.toml")]
        command = [sys.executable, "-m", "gnomon_server.cli", "serve", str(repository), *places]
        # The demo runs under its own policy, whatever is set for another server.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GNOMON_")}
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*command, *anywhere], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.pid = self._process.pid
        self.grpc = self.page = self.control = ""

    def __enter__(self) -> Self:
        match = READY.match(self._process.stdout.readline()) if self._process.stdout else None
        if match is None:
            self._process.wait()
            raise NotReady("demo: the server did not start; what it said is above")
        self.grpc, self.page, self.control = match.groups()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()


class TrafficProcess:
    """The application; its newest counts are read as they come."""

    def __init__(self, address: str, rate: float) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "gnomon_server.cli.demo.traffic", address, str(rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.counts = Counts(0, 0, {}, {}, {}, 0.0, 0.0, 0.0)
        self._reader = threading.Thread(target=self._read, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it still sends."""
        return self._process.poll() is None

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> Counts:
        """Ends it after the request that is under way; returns the final counts."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        return self.counts

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self.counts = msgspec.json.decode(line, type=Counts)


def memory(pid: int) -> int | None:
    """Returns the bytes of a process and its descendants, shared pages counted once; None where /proc has no word."""
    total, waiting = 0, [pid]
    try:
        while waiting:
            folder = Path("/proc") / str(waiting.pop())
            rollup = (folder / "smaps_rollup").read_text()
            total += sum(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
            # Linux keeps children by the thread that started them.
            for children in folder.glob("task/*/children"):
                waiting += map(int, children.read_text().split())
    except (OSError, ValueError):
        return None
    return total
