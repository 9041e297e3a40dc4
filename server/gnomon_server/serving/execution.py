"""The execution of models: on the event loop while a run takes microseconds, on threads when it takes longer.

Each version has a lane of its own, so that a heavy one takes nothing from a light one but the processor's time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from gnomon_protos.tensors import Array
from gnomon_server.errors import Cancelled, DeadlineExceeded, Exhausted, GnomonError
from gnomon_server.models.servable import Servable
from gnomon_server.serving.batching import Job, Waiting, divisible, joined, split

# Handing a run to a thread costs about 15 us, a blocked loop costs every other request the length of the run. A lane
# leaves the loop above the one and returns to it below the other, so that it does not change with every batch.
LEAVE_SECONDS: Final = 400e-6
RETURN_SECONDS: Final = 200e-6
# Runs of one version at the same time on threads.
PARALLEL: Final = 2
THREADS: Final = 16
# Weight of the newest run in the moving mean.
_NEWEST: Final = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a version."""

    # Rows and requests in it.
    rows: int
    requests: int
    # Nanoseconds since the epoch.
    start_ns: int
    end_ns: int
    # time.perf_counter() when its batch was taken up, and the seconds in which its inputs were joined.
    begun: float
    joining: float


# Called on the event loop for each job: its outputs, or the error in their place. `run` is None if it never began.
Finish = Callable[[Job, Sequence[Array], GnomonError | None, Run | None], None]


class Execution:
    """Runs servables for one event loop."""

    def __init__(self, finish: Finish) -> None:
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "run")
        self._lanes: dict[Servable, _Lane] = {}
        self._touched: dict[_Lane, None] = {}

    def submit(self, servable: Servable, job: Job) -> None:
        """Puts a job in its version's lane, to begin with `start`; raises Exhausted if too much waits there."""
        lane = self._lanes.get(servable)
        if lane is None:
            lane = self._lanes[servable] = _Lane(servable)
        if lane.waiting.size >= lane.max_queue:
            raise Exhausted(f"queue: expected at most {lane.max_queue} waiting, received one more")
        lane.waiting.put(job)
        self._touched[lane] = None

    def start(self) -> None:
        """Begins everything that was submitted and can run now."""
        touched, self._touched = self._touched, {}
        for lane in touched:
            self._pump(lane)

    def keep(self, servables: Collection[Servable]) -> None:
        """Lets go of every other version; what waits for one still runs."""
        self._lanes = {servable: lane for servable, lane in self._lanes.items() if servable in servables}

    def close(self) -> None:
        """Waits for runs in progress."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _pump(self, lane: _Lane) -> None:
        while lane.waiting.size and (lane.inline or lane.running < PARALLEL):
            now = time.perf_counter()
            patience = lane.waiting.patience(now)
            if patience > 0:
                self._come_back(lane, patience)
                return
            batch = self._living(lane.waiting.take(now))
            if not batch:
                continue
            if lane.inline:
                self._deliver(lane, lane.run(batch))
            else:
                lane.running += 1
                future = self._loop.run_in_executor(self._threads, lane.run, batch)
                future.add_done_callback(partial(self._returned, lane))

    def _come_back(self, lane: _Lane, seconds: float) -> None:
        if lane.timer is None:
            lane.timer = self._loop.call_later(seconds, self._due, lane)

    def _due(self, lane: _Lane) -> None:
        lane.timer = None
        self._pump(lane)

    def _returned(self, lane: _Lane, runs: asyncio.Future[list[_Ran]]) -> None:
        lane.running -= 1
        self._deliver(lane, runs.result())
        self._pump(lane)

    def _deliver(self, lane: _Lane, runs: list[_Ran]) -> None:
        for ran in runs:
            lane.learn(ran.run)
            if ran.error is not None:
                for job in ran.batch:
                    self._finish(job, (), ran.error, ran.run)
                continue
            for job, outputs in zip(ran.batch, split(ran.batch, ran.outputs), strict=True):
                self._finish(job, outputs, None, ran.run)

    def _living(self, batch: list[Job]) -> list[Job]:
        """Leaves out jobs that nobody waits for, or whose time ran out while they waited."""
        living = []
        for job in batch:
            error = _in_vain(job)
            if error is None:
                living.append(job)
            else:
                self._finish(job, (), error, None)
        return living


def _in_vain(job: Job) -> GnomonError | None:
    if job.abandoned():
        return Cancelled("queue: the caller gave up before the run began")
    if job.limit is None:
        return None
    waited = time.perf_counter() - job.since
    if waited <= job.limit:
        return None
    return DeadlineExceeded(f"queue: expected start within {job.limit * 1e6:.0f} us, waited {waited * 1e6:.0f} us")


@dataclass(frozen=True, slots=True)
class _Ran:
    batch: list[Job]
    outputs: Sequence[Array]
    error: GnomonError | None
    run: Run


class _Lane:
    """One version: what waits for it, and how long its runs take."""

    def __init__(self, servable: Servable) -> None:
        settings = servable.settings
        self._run = servable.run
        self.max_queue = settings.max_queue
        self.waiting = Waiting(settings.max_batch, settings.max_queue_delay) if servable.coalescable else Waiting(1)
        self.running = 0
        # Set while a batch may still grow.
        self.timer: asyncio.TimerHandle | None = None
        # A version runs on a thread until its first run is measured.
        self.inline = False
        self._mean: float | None = None

    def learn(self, run: Run) -> None:
        """Takes how long a run took."""
        # On a busy machine the clock counts what other processes did meanwhile; one such run must not decide.
        seconds = min((run.end_ns - run.start_ns) * 1e-9 + run.joining, 2 * LEAVE_SECONDS)
        self._mean = seconds if self._mean is None else self._mean + _NEWEST * (seconds - self._mean)
        self.inline = self._mean < (LEAVE_SECONDS if self.inline else RETURN_SECONDS)

    def run(self, batch: list[Job]) -> list[_Ran]:
        """Runs a batch; if it fails or cannot be divided, each of its jobs alone, so that only the guilty fail."""
        ran = self._once(batch)
        if len(batch) == 1 or (ran.error is None and divisible(batch, ran.outputs)):
            return [ran]
        return [self._once([job]) for job in batch]

    def _once(self, batch: list[Job]) -> _Ran:
        begun = time.perf_counter()
        outputs: Sequence[Array] = ()
        error: GnomonError | None = None
        inputs = joined(batch)
        start_ns, start = time.time_ns(), time.perf_counter()
        try:
            outputs = self._run(inputs, batch[0].outputs)
        except GnomonError as failure:
            error = failure
        nanoseconds = int((time.perf_counter() - start) * 1e9)
        rows = sum(job.rows for job in batch)
        run = Run(rows, len(batch), start_ns, start_ns + nanoseconds, begun, start - begun)
        return _Ran(batch, outputs, error, run)
