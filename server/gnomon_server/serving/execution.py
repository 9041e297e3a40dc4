"""The execution of models: on the event loop while a run takes microseconds, on threads when it takes longer.

Each version has a lane of its own, so that a heavy one takes nothing from a light one but the processor's time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NamedTuple

from gnomon_protos.tensors import Array
from gnomon_server.errors import Cancelled, DeadlineExceeded, Exhausted, GnomonError, Internal
from gnomon_server.models.servable import Servable
from gnomon_server.serving.batching import Waiting
from gnomon_server.serving.inference import Inference, Run, divisible, joined

log = logging.getLogger(__name__)

# Handing a run to a thread costs about 15 us, a blocked loop costs every other request the length of the run. A lane
# leaves the loop above the one and returns to it below the other, so that it does not change with every batch.
LEAVE_SECONDS: Final = 400e-6
RETURN_SECONDS: Final = 200e-6
# Runs of one version at the same time on threads.
PARALLEL: Final = 2
THREADS: Final = 16
# After what waits was searched for calls that are over, it is left alone for so many times as long.
REST: Final = 50
# Weight of the newest run in the moving mean.
_NEWEST: Final = 0.1


class Ended(NamedTuple):
    """What became of requests that ended together."""

    batch: Sequence[Inference]
    # Of all of them, joined along the first dimension; none if there is an error.
    outputs: Sequence[Array]
    error: GnomonError | None
    # None if it never began.
    run: Run | None


# Called on the event loop, once for each request.
Finish = Callable[[Ended], None]


class Execution:
    """Runs servables for one event loop."""

    def __init__(self, finish: Finish) -> None:
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(THREADS, "run")
        self._lanes: dict[Servable, _Lane] = {}
        self._touched: dict[_Lane, None] = {}
        # time.perf_counter() before which nothing is swept again.
        self._rest_until = 0.0

    def submit(self, inference: Inference) -> None:
        """Puts a request in its version's lane, to begin with `start`; raises Exhausted if too much waits there."""
        servable = inference.layout.servable
        lane = self._lanes.get(servable)
        if lane is None:
            lane = self._lanes[servable] = _Lane(servable)
        if lane.waiting.size >= lane.max_queue:
            self.sweep()
            depth = lane.waiting.size
            if depth >= lane.max_queue:
                raise Exhausted(f"queue: expected at most {lane.max_queue} waiting, received one more than {depth}")
        lane.waiting.put(inference)
        self._touched[lane] = None

    def hurry(self, inference: Inference) -> None:
        """Has a request that still waits refused when its limit passes, in place of when its turn would come."""
        lane = self._lanes.get(inference.layout.servable)
        if lane is not None and inference.limit is not None:
            self._alarm(lane, inference.call.start + inference.limit)

    def sweep(self) -> None:
        """Ends what waits in vain, so that others have its places.

        Not again at once: a flood of requests that find no place must not have everything searched for each of them.
        """
        begun = time.perf_counter()
        if begun < self._rest_until:
            return
        for lane in self._lanes.values():
            if lane.waiting.size:
                self._sweep(lane)
        now = time.perf_counter()
        self._rest_until = now + REST * (now - begun)

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

    def _sweep(self, lane: _Lane) -> None:
        now = time.perf_counter()
        for inference in lane.waiting.withdraw(lambda one: one.call.ended or _late(one, now)):
            self._finish(Ended((inference,), (), _why(inference, now), None))

    def _alarm(self, lane: _Lane, due: float) -> None:
        if lane.alarm is not None:
            if lane.alarm_due <= due:
                return
            lane.alarm.cancel()
        lane.alarm_due = due
        lane.alarm = self._loop.call_later(due - time.perf_counter(), self._ring, lane)

    def _ring(self, lane: _Lane) -> None:
        lane.alarm = None
        self._sweep(lane)
        due = lane.waiting.first_limit()
        if due is not None:
            self._alarm(lane, due)

    def _pump(self, lane: _Lane) -> None:
        while lane.waiting.size and (lane.inline or lane.running < PARALLEL):
            now = time.perf_counter()
            patience = lane.waiting.patience(now)
            if patience > 0:
                self._come_back(lane, patience)
                return
            batch = self._living(lane.waiting.take(now), now)
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

    def _returned(self, lane: _Lane, runs: asyncio.Future[list[Ended]]) -> None:
        lane.running -= 1
        self._deliver(lane, runs.result())
        self._pump(lane)

    def _deliver(self, lane: _Lane, runs: list[Ended]) -> None:
        for ended in runs:
            try:
                self._finish(ended)
            except Exception:
                # Those that ended beside it still want their answers.
                log.exception("what follows a run failed")
            lane.learn(ended)

    def _living(self, batch: list[Inference], now: float) -> list[Inference]:
        """Leaves out requests that nobody waits for, or whose time ran out while they waited."""
        in_vain = [one for one in batch if one.call.ended or (one.limit is not None and _late(one, now))]
        if not in_vain:
            return batch
        for inference in in_vain:
            self._finish(Ended((inference,), (), _why(inference, now), None))
        gone = set(in_vain)
        return [inference for inference in batch if inference not in gone]


def _late(inference: Inference, now: float) -> bool:
    return inference.limit is not None and now - inference.call.start > inference.limit


def _why(inference: Inference, now: float) -> GnomonError:
    # A call is over as well once its deadline has passed; it did not give up.
    if inference.limit is None or not _late(inference, now):
        return Cancelled("queue: the caller gave up before the run began")
    waited = (now - inference.call.start) * 1e6
    return DeadlineExceeded(f"queue: expected start within {inference.limit * 1e6:.0f} us, waited {waited:.0f} us")


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
        # Set while a request with a timeout waits, to the first of their limits.
        self.alarm: asyncio.TimerHandle | None = None
        self.alarm_due = 0.0
        # A version runs on a thread until its first run is measured.
        self.inline = False
        self._mean: float | None = None

    def learn(self, ended: Ended) -> None:
        """Takes how long a run took."""
        run = ended.run
        if run is None:
            return
        # On a busy machine the clock counts what other processes did meanwhile; one such run must not decide.
        seconds = min((run.end_ns - run.start_ns) * 1e-9 + run.joining, 2 * LEAVE_SECONDS)
        self._mean = seconds if self._mean is None else self._mean + _NEWEST * (seconds - self._mean)
        self.inline = self._mean < (LEAVE_SECONDS if self.inline else RETURN_SECONDS)

    def run(self, batch: list[Inference]) -> list[Ended]:
        """Runs a batch; if it fails or cannot be divided, each request alone, so that only the guilty fail."""
        ended = self._once(batch)
        if len(batch) == 1 or (ended.error is None and divisible(batch, ended.outputs)):
            return [ended]
        return [self._once([inference]) for inference in batch]

    def _once(self, batch: list[Inference]) -> Ended:
        begun = time.perf_counter()
        outputs: Sequence[Array] = ()
        error: GnomonError | None = None
        start_ns, start = time.time_ns(), begun
        try:
            inputs = joined(batch)
            start_ns, start = time.time_ns(), time.perf_counter()
            outputs = self._run(inputs, batch[0].layout.outputs)
        except GnomonError as failure:
            error = failure
        except Exception as failure:
            # Such as a want of memory. Unless it is told, its callers would wait for ever.
            log.exception("a run failed")
            error = Internal(f"execution failed: {type(failure).__name__}")
        nanoseconds = int((time.perf_counter() - start) * 1e9)
        rows = sum([inference.layout.rows for inference in batch])
        run = Run(rows, len(batch), start_ns, start_ns + nanoseconds, begun, start - begun)
        return Ended(batch, outputs, error, run)
