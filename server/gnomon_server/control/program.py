"""A program that control has started, and that comes before control on a busy processor."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

# By how much control steps back: beside a busy frontend it is left a tenth of a processor, and a request that comes
# while control works does not wait until it has finished.
STEP: Final = 10
LOWEST: Final = 19

# Linux schedules threads, and a child inherits from the one that starts it: this one never steps back.
_starter: Final = ThreadPoolExecutor(1, "start")


def step_back() -> None:
    """Lowers the priority of this thread and of those that it will start, but not of programs."""
    if sys.platform != "linux":
        return
    _starter.submit(int).result()
    # 0 is the calling thread.
    os.setpriority(os.PRIO_PROCESS, 0, min(LOWEST, os.getpriority(os.PRIO_PROCESS, 0) + STEP))


class Program:
    """A running program; belongs to an event loop."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        threading.Thread(target=self._wait, args=(asyncio.get_running_loop(),), name="wait", daemon=True).start()

    @classmethod
    async def started(cls, command: Sequence[str], descriptor: int, environment: Mapping[str, str]) -> Program:
        """Starts a program that inherits a descriptor; raises OSError if that cannot be done.

        One whose start is given up is killed.
        """

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # noqa: S603 - our own command
                command, pass_fds=(descriptor,), stdin=subprocess.DEVNULL, env=environment
            )

        starting = asyncio.get_running_loop().run_in_executor(_starter, start)
        try:
            return cls(await asyncio.shield(starting))
        except asyncio.CancelledError:
            # It may have begun already, and nobody else would end it.
            starting.add_done_callback(cls._given_up)
            raise

    @classmethod
    def _given_up(cls, started: asyncio.Future[subprocess.Popen[bytes]]) -> None:
        if started.exception() is None:
            cls(started.result()).kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """Ends it at once, if it has not ended yet."""
        self._process.kill()

    async def wait(self) -> int:
        """Returns its exit status once it has ended, minus the signal that ended it."""
        return await asyncio.shield(self._ended)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        status = self._process.wait()
        # A loop that is closed waits for nobody.
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._end, status)

    def _end(self, status: int) -> None:
        if not self._ended.done():
            self._ended.set_result(status)
