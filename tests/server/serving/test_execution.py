"""Where and when models run, and what runs together."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np
import pytest
from server.serving.fakes import Doubler

from gnomon_protos.tensors import Array
from gnomon_server.errors import Cancelled, DeadlineExceeded, Exhausted, GnomonError, Internal
from gnomon_server.serving.batching import MOST_ROWS, Job
from gnomon_server.serving.execution import LEAVE_SECONDS, MAX_WAITING, PARALLEL, Execution, Run

HERE = threading.get_ident()


class Ends:
    """Collects what became of jobs, by the names of their owners, and says when there are enough."""

    def __init__(self) -> None:
        self.ended: dict[object, tuple[Sequence[Array], GnomonError | None, Run | None]] = {}
        self._more = asyncio.Event()

    def __call__(self, job: Job, outputs: Sequence[Array], error: GnomonError | None, run: Run | None) -> None:
        assert threading.get_ident() == HERE
        assert job.owner not in self.ended
        self.ended[job.owner] = (outputs, error, run)
        self._more.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.ended) < count:
                self._more.clear()
                await self._more.wait()


class Stage:
    """An execution, and what became of the jobs given to it."""

    def __init__(self) -> None:
        self.ends = Ends()
        self.execution = Execution(self.ends)
        self._names = 0

    def submit(
        self, servable: Doubler, value: float = 1.0, rows: int = 1, limit: float | None = None, over: bool = False
    ) -> int:
        self._names += 1
        inputs = {"x": np.full((rows, 3), value, np.float32)}
        self.execution.submit(servable, Job("kind", inputs, ("y",), rows, limit, 0.0, lambda: over, self._names))
        return self._names

    async def run(self, servable: Doubler) -> tuple[Sequence[Array], GnomonError | None, Run | None]:
        name = self.submit(servable)
        self.execution.start()
        await self.ends.wait(self._names)
        return self.ends.ended[name]


class Picky(Doubler):
    """Fails for every batch that holds a 13."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        if (inputs["x"] == 13).any():
            raise Internal("execution failed: 13")
        return super().run(inputs, outputs)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    await asyncio.to_thread(made.execution.close)


async def test_an_unknown_version_runs_on_a_thread_and_a_quick_one_then_on_the_loop(stage: Stage) -> None:
    quick = Doubler()
    (output,), error, run = await stage.run(quick)
    assert error is None
    assert output.tolist() == [[2, 2, 2]]
    assert run is not None
    assert run.start_ns <= run.end_ns
    # One run may have been slow on a busy machine; its weight fades.
    while quick.threads[-1] != HERE:
        await stage.run(quick)
    assert quick.threads[0] != HERE


async def test_a_version_that_takes_long_stays_off_the_loop(stage: Stage) -> None:
    slow = Doubler(seconds=5 * LEAVE_SECONDS)
    for _ in range(5):
        await stage.run(slow)
    assert HERE not in slow.threads


async def test_what_arrives_together_runs_together_and_each_gets_its_own_rows(stage: Stage) -> None:
    servable = Doubler()
    names = [stage.submit(servable, value=number, rows=1 + number % 3) for number in range(10)]
    assert not servable.threads
    stage.execution.start()
    await stage.ends.wait(10)
    assert len(servable.threads) == 1
    for number, name in enumerate(names):
        (output,), error, run = stage.ends.ended[name]
        assert error is None
        assert output.tolist() == [[2.0 * number] * 3] * (1 + number % 3)
        assert run is not None
        assert (run.requests, run.rows) == (10, sum(1 + other % 3 for other in range(10)))


async def test_what_waits_while_a_version_is_busy_runs_as_one(stage: Stage) -> None:
    gate = threading.Event()
    blocked = Doubler(gate=gate)
    for _ in range(PARALLEL):
        stage.submit(blocked)
        stage.execution.start()
    for _ in range(20):
        stage.submit(blocked)
        stage.execution.start()
    gate.set()
    await stage.ends.wait(PARALLEL + 20)
    assert len(blocked.threads) == PARALLEL + 1


async def test_a_batch_has_no_more_rows_than_the_limit_but_for_one_large_request(stage: Stage) -> None:
    servable = Doubler()
    for _ in range(MOST_ROWS + 1):
        stage.submit(servable)
    large = stage.submit(servable, rows=3 * MOST_ROWS)
    stage.execution.start()
    await stage.ends.wait(MOST_ROWS + 2)
    runs = {id(run): run for _, _, run in stage.ends.ended.values() if run is not None}
    assert sorted(run.rows for run in runs.values()) == [1, MOST_ROWS, 3 * MOST_ROWS]
    assert len(stage.ends.ended[large][0][0]) == 3 * MOST_ROWS


async def test_a_version_whose_rows_depend_on_each_other_runs_each_request_alone(stage: Stage) -> None:
    servable = Doubler()
    servable.coalescable = False
    for _ in range(5):
        stage.submit(servable)
    stage.execution.start()
    await stage.ends.wait(5)
    assert len(servable.threads) == 5


async def test_only_the_request_that_makes_a_batch_fail_fails(stage: Stage) -> None:
    servable = Picky()
    names = {value: stage.submit(servable, value=value) for value in (1, 13, 2)}
    stage.execution.start()
    await stage.ends.wait(3)
    assert isinstance(stage.ends.ended[names[13]][1], Internal)
    for value in (1, 2):
        outputs, error, _ = stage.ends.ended[names[value]]
        assert error is None
        assert outputs[0].tolist() == [[2.0 * value] * 3]


async def test_a_heavy_version_does_not_keep_a_light_one_waiting(stage: Stage) -> None:
    gate = threading.Event()
    heavy, light = Doubler(version=1, gate=gate), Doubler(version=2)
    for _ in range(10 * PARALLEL):
        stage.submit(heavy)
    name = stage.submit(light)
    stage.execution.start()
    await stage.ends.wait(1)
    assert list(stage.ends.ended) == [name]
    gate.set()
    await stage.ends.wait(10 * PARALLEL + 1)


async def test_work_that_waited_longer_than_its_limit_is_not_run(stage: Stage) -> None:
    servable = Doubler()
    late = stage.submit(servable, limit=1e-6)
    stage.execution.start()
    _, error, run = stage.ends.ended[late]
    assert isinstance(error, DeadlineExceeded)
    assert re.fullmatch(r"queue: expected start within 1 us, waited \d+ us", str(error))
    assert run is None
    assert not servable.threads


async def test_work_for_a_caller_who_gave_up_is_not_run(stage: Stage) -> None:
    servable = Doubler()
    gone = stage.submit(servable, over=True)
    there = stage.submit(servable)
    stage.execution.start()
    await stage.ends.wait(2)
    assert isinstance(stage.ends.ended[gone][1], Cancelled)
    run = stage.ends.ended[there][2]
    assert run is not None
    assert run.rows == 1


async def test_what_is_waiting_is_bounded(stage: Stage) -> None:
    gate = threading.Event()
    blocked = Doubler(gate=gate)
    for _ in range(PARALLEL):
        stage.submit(blocked)
        stage.execution.start()
    for _ in range(MAX_WAITING):
        stage.submit(blocked)
    with pytest.raises(Exhausted, match=f"queue: expected at most {MAX_WAITING} waiting, received one more"):
        stage.submit(blocked)
    stage.execution.start()
    gate.set()
    await stage.ends.wait(PARALLEL + MAX_WAITING)
    assert all(error is None for _, error, _ in stage.ends.ended.values())


async def test_a_failure_is_a_result_on_the_thread_and_on_the_loop(stage: Stage) -> None:
    failing = Doubler(error=Internal("execution failed: boom"))
    for _ in range(3):
        outputs, error, _ = await stage.run(failing)
        assert isinstance(error, Internal)
        assert outputs == ()


async def test_a_version_that_is_let_go_still_ends_what_waits_for_it(stage: Stage) -> None:
    gate = threading.Event()
    blocked = Doubler(gate=gate)
    for _ in range(PARALLEL):
        stage.submit(blocked)
        stage.execution.start()
    stage.submit(blocked)
    stage.execution.keep(())
    stage.execution.start()
    gate.set()
    await stage.ends.wait(PARALLEL + 1)


async def test_closing_waits_for_runs_in_progress() -> None:
    stage, gate = Stage(), threading.Event()
    blocked = Doubler(gate=gate)
    stage.submit(blocked)
    stage.execution.start()
    while not blocked.threads:
        await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(stage.execution.close))
    assert not stage.ends.ended
    gate.set()
    await closing
    await stage.ends.wait(1)
