"""A child process that control owns: started, heard, and started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Final

from gnomon_server.control.program import Program
from gnomon_server.shadow.memory import OUT_OF_MEMORY
from gnomon_server.wire.channel import Channel, open_parent
from gnomon_server.wire.messages import Drained, FromChild, ToChild
from gnomon_server.wire.plans import Drain

log = logging.getLogger(__name__)

# A child that dies young waits before its next life, longer each time.
YOUNG_SECONDS: Final = 5.0
FIRST_DELAY: Final = 0.1
LONGEST_DELAY: Final = 10.0
MOST_DOUBLINGS: Final = 16


class Child:
    """One role in the fleet, over all its lives; belongs to control's event loop.

    `born` is called at the begin of each life and sends the plan; `heard` gets every message; `died` is called once a
    life is over and everything it said was heard. After `patience` lives in a row that ended young it is given up;
    without it, never.
    """

    def __init__(
        self,
        name: str,
        module: str,
        settings: str,
        born: Callable[[Child], None],
        heard: Callable[[Child, FromChild], None],
        died: Callable[[Child], None],
        patience: int | None = None,
    ) -> None:
        self.name = name
        # Counts the lives; 0 before the first one.
        self.life = 0
        # How the last life ended, and how many in a row ended young.
        self.ending = ""
        self.young = 0
        self._patience = patience
        # By the loop's clock: when the current life began its work.
        self._since = 0.0
        self._module = module
        self._settings = settings
        self._born, self._heard, self._died = born, heard, died
        self._channel: Channel[FromChild] | None = None
        self._process: Program | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether there is a life that can be told something."""
        return self._channel is not None

    @property
    def pid(self) -> int | None:
        """The process id of the current life."""
        return self._process.pid if self._process else None

    @property
    def given_up(self) -> bool:
        """Whether there will be no other life."""
        return self._patience is not None and self.young >= self._patience

    def begins(self) -> None:
        """Says that the current life has begun its work: what it took to get there made it no older."""
        self._since = asyncio.get_running_loop().time()

    def start(self) -> None:
        """Begins the first life."""
        self._task = asyncio.create_task(self._live(), name=self.name)

    def send(self, message: ToChild) -> None:
        """Sends a message to the current life; between two lives it is lost, since the next begins with a plan."""
        if self._channel is not None:
            self._channel.send(message)

    async def drain(self, grace: float) -> None:
        """Asks the child to finish its work and end; kills it if it takes longer than twice the grace."""
        self._stopping = True
        self.send(Drain(grace))
        await self._end(2 * grace + 1)

    def restart(self) -> None:
        """Ends the current life at once, so that the next one begins."""
        self._kill()

    async def kill(self) -> None:
        """Ends the child at once."""
        self._stopping = True
        self._kill()
        await self._end(None)

    async def _end(self, seconds: float | None) -> None:
        if self._task is None:
            return
        # Between two lives there is nobody to drain.
        if self._channel is None and self._process is None:
            self._task.cancel()
        done, _ = await asyncio.wait({self._task}, timeout=seconds)
        if not done:
            log.warning("%s did not end in time and is killed", self.name)
            self._kill()
            await asyncio.wait({self._task})

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    async def _live(self) -> None:
        while not self._stopping:
            await self._one_life()
            if self._stopping or self.given_up:
                break
            log.warning("%s %s in life %d, starts again in %.1f s", self.name, self.ending, self.life, self.delay)
            await asyncio.sleep(self.delay)

    @property
    def delay(self) -> float:
        """Seconds between the last life and the next."""
        return float(min(FIRST_DELAY * 2.0 ** min(self.young, MOST_DOUBLINGS), LONGEST_DELAY))

    async def _one_life(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", self._module, str(theirs.fileno()), self._settings)
            try:
                self._process = await Program.started(command, theirs.fileno(), _environment())
            except BaseException:
                ours.close()
                raise
        self._channel = await open_parent(ours)
        self.life += 1
        self.begins()
        self._born(self)
        while (message := await self._channel.receive()) is not None:
            if not isinstance(message, Drained):
                self._heard(self, message)
        self._channel.close()
        self._channel = None
        self.ending = _ending(await self._process.wait())
        self._process = None
        old = asyncio.get_running_loop().time() - self._since > YOUNG_SECONDS
        self.young = 0 if old else self.young + 1
        self._died(self)


def _ending(status: int) -> str:
    """Returns the status of a process in words."""
    if status == OUT_OF_MEMORY:
        return "reached its bound of memory"
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _environment() -> dict[str, str]:
    # Threads of numeric libraries would fight the frontends for the cores; models have their own setting.
    return {**os.environ, "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
