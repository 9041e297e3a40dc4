"""The machine: what it is, who may use which core, and what was used of it."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

# Share of the machine below which it is calm, and seconds of a look.
CALM: Final = 0.1
LOOK: Final = 0.2


@dataclass(frozen=True)
class Places:
    """Cores for each side; every core for everyone where there is only one, or where the system cannot pin."""

    everywhere: frozenset[int]
    server: frozenset[int]
    generator: frozenset[int]

    @property
    def pinned(self) -> bool:
        """Whether server and load generator have a core each."""
        return self.server != self.generator


def places() -> Places:
    """Returns the first core that this process may use for the server, the second for the generator."""
    if not hasattr(os, "sched_getaffinity"):
        return Places(frozenset(), frozenset(), frozenset())
    usable = sorted(os.sched_getaffinity(0))
    everywhere = frozenset(usable)
    if len(usable) == 1:
        return Places(everywhere, everywhere, everywhere)
    return Places(everywhere, frozenset(usable[:1]), frozenset(usable[1:2]))


def pin(process: psutil.Process, onto: Collection[int]) -> None:
    """Moves every thread of a process to some cores; threads that it starts later inherit them."""
    if not onto:
        return
    for thread in process.threads():
        # A thread may end between the look and the move.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(thread.id, onto)


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Returns the user and system time that living processes have used in all their threads."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


def memory(processes: Iterable[psutil.Process]) -> int:
    """Returns the bytes that processes hold, those that several share divided among them (resident, without Linux)."""
    total = 0
    for process in processes:
        full = process.memory_full_info()
        total += getattr(full, "pss", full.rss)
    return total


def free_ports(count: int) -> list[int]:
    """Returns ports that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def busy_seconds() -> float:
    """Returns the time that all cores together have been busy since the machine started."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guest time within user time.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guest)


def await_calm(seconds: float) -> None:
    """Waits until the machine has little to do, for some seconds at most."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        busy = busy_seconds()
        time.sleep(LOOK)
        if busy_seconds() - busy < CALM * LOOK * cores():
            return


def cores() -> int:
    """Returns how many there are."""
    return psutil.cpu_count() or 1


def describe() -> str:
    """Returns cores, memory, processor, system and Python in one line."""
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"{cores()} cores, {memory:.0f} GiB, {_processor()}, {platform.system()}, Python {python}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
