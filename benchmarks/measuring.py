"""Measuring: a server is started, checked, warmed up, loaded and watched."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import contenders
import generators
import machine
from alone import ALONE, Alone
from contenders import Running
from generators import GENERATORS, Sent, Target
from machine import Places
from plan import CLOSED, Load, Task
from results import Measurement
from workload import Workload

from gnomon_protos.control_pb2 import Outcomes

# Share of the time of a measurement that warms up before it.
WARM: Final = 0.3
# A measurement beside which others used more of the machine than this is taken again, this many times at most.
NOISY: Final = 0.05
AGAIN: Final = 2
# Times that a server may be started for its loads: some die when a generator hangs up.
STARTS: Final = 3
# Capacity is what is answered under this load.
CAPACITY: Final = CLOSED[2]


@dataclass
class Bench:
    """How to measure, and what the rates refer to."""

    places: Places
    generator: str
    seconds: float
    # Seconds to wait for a calm machine; with 0, what others do beside a measurement does not matter.
    patience: float
    # Where telemetry goes.
    receiver: str

    def __post_init__(self) -> None:
        # Requests per second by model.
        self._capacity: dict[str, float] = {}

    def measure(self, task: Task, work: Workload, number: int) -> Iterator[Measurement]:
        """Yields a measurement for every load of a task."""
        if task.contender.name == ALONE:
            yield self._alone(task, work, number)
            return
        paced = any(load.pace for load in task.loads)
        if paced and task.model not in self._capacity:
            self._capacity[task.model] = self._of(replace(task, contender=contenders.GNOMON), work)
        left = list(task.loads)
        for attempt in range(STARTS):
            try:
                for one in self._loaded(replace(task, loads=tuple(left)), work, number):
                    left.remove(one.load)
                    yield one
            except RuntimeError as error:
                if attempt == STARTS - 1:
                    raise
                print(f"started again: {error}", file=sys.stderr)
            else:
                return

    def _loaded(self, task: Task, work: Workload, number: int) -> Iterator[Measurement]:
        with self._started(task, work) as (server, scratch):
            size = work.check(server.address, exact=task.contender.exact)
            places = self.places.everywhere if task.contender.spread else self.places.generator
            for load in task.loads:
                rate = load.pace * self._capacity.get(task.model, 0.0)
                target = Target(
                    server.address, self.seconds, load.connections, load.streams, rate, work.requests, size, places
                )
                yield _Watch(task, load, number, server, target, scratch, self).quietly()

    @contextmanager
    def _started(self, task: Task, work: Workload) -> Iterator[tuple[Running, Path]]:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnomon-bench-")))
            yield stack.enter_context(task.contender.running(work, scratch, self.places, self.receiver)), scratch

    def _of(self, task: Task, work: Workload) -> float:
        """Returns the capacity for a model."""
        closed = replace(task, loads=(CAPACITY,))
        return next(self.measure(closed, work, 0)).per_second

    def _alone(self, task: Task, work: Workload, number: int) -> Measurement:
        machine.await_calm(self.patience)
        busy, begin = machine.busy_seconds(), time.monotonic()
        per_second, p50, p99 = Alone(work, self.places, self.seconds).measured()
        elapsed = time.monotonic() - begin
        foreign = max(0.0, machine.busy_seconds() - busy - elapsed) / (elapsed * machine.cores())
        load, cpu = task.loads[0], 1e6 / per_second
        return Measurement(task.suite, task.model, ALONE, load, number, per_second, p50, p99, cpu, foreign)


@dataclass(frozen=True)
class _Watch:
    """A server, and what is done to it."""

    task: Task
    load: Load
    number: int
    server: Running
    target: Target
    scratch: Path
    bench: Bench

    def quietly(self) -> Measurement:
        """Returns the measurement beside which others did least."""
        with ExitStack() as stack:
            held = machine.memory(self.server.serving)
            if self.load.idle:
                stack.enter_context(generators.idle(self.load.idle, self.target, self.scratch))
            added = machine.memory(self.server.serving) - held
            idle_bytes = added / self.load.idle if self.load.idle else 0.0
            self._sent(replace(self.target, seconds=self.target.seconds * WARM))
            best = self._watched(idle_bytes)
            for _ in range(AGAIN if self.bench.patience else 0):
                if best.foreign <= NOISY:
                    break
                best = min(best, self._watched(idle_bytes), key=lambda one: one.foreign)
            return best

    def _sent(self, target: Target) -> Sent:
        # Only the one of this folder keeps a rate.
        return GENERATORS["streams" if target.rate else self.bench.generator](target, self.scratch)

    def _watched(self, idle_bytes: float) -> Measurement:
        machine.await_calm(self.bench.patience)
        server, before = self.server, self._outcomes()
        shadow, serving = machine.cpu_seconds(server.shadows), machine.cpu_seconds(server.serving)
        busy, begin = machine.busy_seconds(), time.monotonic()
        sent = self._sent(self.target)
        elapsed, busy = time.monotonic() - begin, machine.busy_seconds() - busy
        serving = machine.cpu_seconds(server.serving) - serving
        ours = serving + sent.cpu_seconds + machine.cpu_seconds(server.shadows) - shadow
        # The shadow has not finished when the load ends; all of its work counts.
        after = self._outcomes()
        shadow = machine.cpu_seconds(server.shadows) - shadow
        selected, compared = after.selected - before.selected, after.compared - before.compared
        return Measurement(
            suite=self.task.suite,
            model=self.task.model,
            contender=self.task.contender.name,
            load=self.load,
            round=self.number,
            rate=self.target.rate,
            per_second=sent.per_second,
            p50=sent.p50,
            p99=sent.p99,
            cpu=serving / sent.requests * 1e6,
            memory=machine.memory(server.serving),
            idle_bytes=idle_bytes,
            shadow_cpu=shadow / compared * 1e6 if compared else 0.0,
            compared=compared / selected if selected else 0.0,
            dropped=(after.dropped - before.dropped) / selected if selected else 0.0,
            generator=sent.cpu_seconds / elapsed,
            late=sent.late,
            foreign=max(0.0, busy - ours) / (elapsed * machine.cores()),
        )

    def _outcomes(self) -> Outcomes:
        return (
            self.server.outcomes(self.task.model) if self.server.shadows and self.task.contender.shadow else Outcomes()
        )
