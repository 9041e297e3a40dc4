"""The execution of models: on the event loop while a run takes microseconds, on threads when it takes longer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from gnomon_protos.tensors import Array
from gnomon_server.errors import DeadlineExceeded, Exhausted, GnomonError
from gnomon_server.models.servable import Servable

# Handing a run to a thread costs about 15 us, a blocked loop costs every other request the length of the run.
INLINE_SECONDS: Final = 200e-6
THREADS: Final = 2
MAX_WAITING: Final = 1024
# Weight of the newest run in the moving mean.
_NEWEST: Final = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    outputs: Sequence[Array]
    # Set if there are no outputs.
    error: GnomonError | None
    # Nanoseconds since the epoch.
    start_ns: int
    end_ns: int


class Execution:
    """Runs servables for one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "run")
        self._means: WeakKeyDictionary[Servable, float] = WeakKeyDictionary()
        self._waiting = 0

    def submit(
        self,
        servable: Servable,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        limit: float | None,
        done: Callable[[Run], None],
    ) -> None:
        """Runs now or on a thread, and calls `done` on the event loop.

        Work that has not begun after `limit` seconds ends in DeadlineExceeded. Raises Exhausted if too much is waiting.
        An unknown version runs on a thread until its first run is measured.
        """
        since = time.monotonic()
        if self._means.get(servable, INLINE_SECONDS) < INLINE_SECONDS:
            done(self._run(servable, inputs, outputs, limit, since))
            return
        if self._waiting >= MAX_WAITING:
            raise Exhausted(f"queue: expected at most {MAX_WAITING} waiting, received one more")
        self._waiting += 1
        future = self._loop.run_in_executor(self._threads, self._run, servable, inputs, outputs, limit, since)
        future.add_done_callback(lambda finished: self._finished(finished.result(), done))

    def close(self) -> None:
        """Waits for runs in progress."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _finished(self, run: Run, done: Callable[[Run], None]) -> None:
        self._waiting -= 1
        done(run)

    def _run(
        self,
        servable: Servable,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        limit: float | None,
        since: float,
    ) -> Run:
        start_ns = time.time_ns()
        waited = time.monotonic() - since
        if limit is not None and waited > limit:
            late = f"queue: expected start within {limit * 1e6:.0f} us, waited {waited * 1e6:.0f} us"
            return Run((), DeadlineExceeded(late), start_ns, start_ns)
        start = time.perf_counter()
        result: Sequence[Array] = ()
        error: GnomonError | None = None
        try:
            result = servable.run(inputs, outputs)
        except GnomonError as failure:
            error = failure
        seconds = time.perf_counter() - start
        mean = self._means.get(servable, seconds)
        self._means[servable] = mean + _NEWEST * (seconds - mean)
        return Run(result, error, start_ns, start_ns + int(seconds * 1e9))
