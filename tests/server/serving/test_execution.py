"""Where, when and together with what requests run."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from server.serving.fakes import Doubler, inference

from gnomon_protos.tensors import Array
from gnomon_server.errors import Cancelled, DeadlineExceeded, Exhausted, GnomonError, Internal
from gnomon_server.serving.execution import LEAVE_SECONDS, PARALLEL, Ended, Execution
from gnomon_server.serving.inference import Run, split
from gnomon_server.settings import MODEL_DEFAULTS, ModelSettings

MOST_ROWS = MODEL_DEFAULTS.max_batch


class Ends:
    """What became of the requests, by their names, in the order of their ends."""

    def __init__(self) -> None:
        self.outputs: dict[str, Sequence[Array]] = {}
        self.errors: dict[str, GnomonError | None] = {}
        self.runs: dict[str, Run | None] = {}
        self._thread = threading.get_ident()
        self._changed = asyncio.Event()

    def __call__(self, ended: Ended) -> None:
        assert threading.get_ident() == self._thread
        parts = split(ended.batch, ended.outputs) if ended.error is None else [()] * len(ended.batch)
        for one, outputs in zip(ended.batch, parts, strict=True):
            name = one.id.decode()
            assert name not in self.outputs
            self.outputs[name], self.errors[name], self.runs[name] = outputs, ended.error, ended.run
        self._changed.set()

    async def of(self, *names: str) -> None:
        """Waits for the ends of these jobs."""
        while not self.outputs.keys() >= set(names):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 30)


@pytest.fixture
async def ends() -> Ends:
    return Ends()


@pytest.fixture
async def execution(ends: Ends) -> AsyncIterator[Execution]:
    made = Execution(ends)
    yield made
    await asyncio.to_thread(made.close)


async def alone(execution: Execution, ends: Ends, servable: Doubler, name: str) -> None:
    execution.submit(inference(servable, name))
    execution.start()
    await ends.of(name)


async def test_an_unknown_version_runs_on_a_thread_and_a_quick_one_then_at_once(
    execution: Execution, ends: Ends
) -> None:
    quick = Doubler()
    await alone(execution, ends, quick, "first")
    assert ends.outputs["first"][0].tolist() == [[2, 2, 2]]
    assert quick.threads[0] != threading.get_ident()
    # A run may have been slow on a busy machine; its weight fades.
    number = 0
    while quick.threads[-1] != threading.get_ident():
        number += 1
        assert number < 10_000
        await alone(execution, ends, quick, str(number))
    execution.submit(inference(quick, "at once"))
    execution.start()
    assert "at once" in ends.outputs


async def test_a_version_that_takes_long_stays_off_the_loop(execution: Execution, ends: Ends) -> None:
    slow = Doubler(seconds=5 * LEAVE_SECONDS)
    for number in range(5):
        await alone(execution, ends, slow, str(number))
    assert threading.get_ident() not in slow.threads


async def test_nothing_begins_before_the_pass_is_over(execution: Execution, ends: Ends) -> None:
    servable = Doubler()
    execution.submit(inference(servable, "one"))
    await asyncio.sleep(0)
    assert servable.threads == []
    execution.start()
    await ends.of("one")


async def test_what_arrives_together_runs_together_and_each_gets_its_rows(execution: Execution, ends: Ends) -> None:
    servable = Doubler()
    for number in range(4):
        execution.submit(inference(servable, str(number), rows=number, value=number))
    execution.start()
    await ends.of("0", "1", "2", "3")
    assert len(servable.threads) == 1
    for number in range(4):
        assert ends.outputs[str(number)][0].tolist() == [[2.0 * number] * 3] * number
    run = ends.runs["3"]
    assert run is not None
    assert (run.rows, run.requests) == (6, 4)


async def test_batches_are_bounded(execution: Execution, ends: Ends) -> None:
    servable = Doubler()
    names = [str(number) for number in range(5)]
    for name in names:
        execution.submit(inference(servable, name, rows=MOST_ROWS // 2))
    execution.submit(inference(servable, "great", rows=2 * MOST_ROWS))
    execution.start()
    await ends.of(*names, "great")
    runs = [ends.runs[name] for name in (*names, "great")]
    assert [run.requests if run else None for run in runs] == [2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("rows", [(1, 1), (0, 0), (0, 1)])
async def test_a_version_whose_rows_depend_on_each_other_runs_each_request_alone(
    rows: tuple[int, int], execution: Execution, ends: Ends
) -> None:
    servable = Doubler()
    servable.coalescable = False
    execution.submit(inference(servable, "one", rows[0]))
    execution.submit(inference(servable, "two", rows[1]))
    execution.start()
    await ends.of("one", "two")
    assert len(servable.threads) == 2


async def test_in_a_batch_that_fails_only_the_guilty_fail(execution: Execution, ends: Ends) -> None:
    class Picky(Doubler):
        def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
            if (inputs["x"] < 0).any():
                raise Internal("execution failed: below zero")
            return super().run(inputs, outputs)

    servable = Picky()
    for name, value in (("good", 1.0), ("bad", -1.0), ("better", 2.0)):
        execution.submit(inference(servable, name, value=value))
    execution.start()
    await ends.of("good", "bad", "better")
    assert {name for name, error in ends.errors.items() if error is not None} == {"bad"}
    assert ends.outputs["better"][0].tolist() == [[4, 4, 4]]


async def test_nobody_gets_the_rows_of_another_where_a_model_drops_rows(execution: Execution, ends: Ends) -> None:
    class Filter(Doubler):
        """Its rows seem to be independent until one is below zero."""

        def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
            (answer,) = super().run(inputs, outputs)
            return [answer[answer[:, 0] >= 0]]

    servable = Filter()
    for name, value in (("dropped", -1.0), ("kept", 3.0)):
        execution.submit(inference(servable, name, value=value))
    execution.start()
    await ends.of("dropped", "kept")
    assert ends.outputs["dropped"][0].tolist() == []
    assert ends.outputs["kept"][0].tolist() == [[6, 6, 6]]


async def test_work_that_waited_longer_than_its_limit_is_not_run(execution: Execution, ends: Ends) -> None:
    servable = Doubler()
    execution.submit(inference(servable, "late", limit=1e-6))
    execution.submit(inference(servable, "in time", limit=1e9))
    execution.start()
    await ends.of("late", "in time")
    late = ends.errors["late"]
    assert isinstance(late, DeadlineExceeded)
    assert re.fullmatch(r"queue: expected start within 1 us, waited \d+ us", str(late))
    assert ends.runs["late"] is None
    assert ends.errors["in time"] is None
    assert len(servable.threads) == 1


async def test_work_for_nobody_is_not_run(execution: Execution, ends: Ends) -> None:
    servable = Doubler()
    abandoned = inference(servable, "abandoned")
    abandoned.call.ended = True
    execution.submit(abandoned)
    execution.start()
    await ends.of("abandoned")
    assert isinstance(ends.errors["abandoned"], Cancelled)
    assert servable.threads == []


async def test_a_call_that_its_deadline_has_ended_did_not_give_up(execution: Execution, ends: Ends) -> None:
    expired = inference(Doubler(), "expired", limit=1e-6)
    expired.call.ended = True
    execution.submit(expired)
    execution.start()
    await ends.of("expired")
    assert isinstance(ends.errors["expired"], DeadlineExceeded)


async def test_what_is_waiting_for_a_version_is_bounded_and_other_versions_go_on(
    execution: Execution, ends: Ends
) -> None:
    gate, most = threading.Event(), 20
    blocked, free = Doubler(gate=gate, settings=ModelSettings(max_queue=most)), Doubler(2)
    for number in range(PARALLEL):
        execution.submit(inference(blocked, f"running {number}", rows=MOST_ROWS))
    execution.start()
    for number in range(most):
        execution.submit(inference(blocked, str(number)))
    with pytest.raises(Exhausted, match=f"queue: expected at most {most} waiting, received one more than {most}$"):
        execution.submit(inference(blocked, "too much"))
    await alone(execution, ends, free, "free")
    gate.set()
    execution.start()
    await ends.of(*map(str, range(most)))
    assert "too much" not in ends.outputs
    await alone(execution, ends, blocked, "again")


async def test_a_call_that_is_over_frees_its_place_in_a_full_queue(execution: Execution, ends: Ends) -> None:
    gate, most = threading.Event(), 20
    blocked = Doubler(gate=gate, settings=ModelSettings(max_queue=most))
    for number in range(PARALLEL):
        execution.submit(inference(blocked, f"running {number}", rows=MOST_ROWS))
    execution.start()
    waiting = [inference(blocked, str(number)) for number in range(most)]
    for one in waiting:
        execution.submit(one)
    for one in waiting[::2]:
        one.call.ended = True
    for number in range(most // 2):
        execution.submit(inference(blocked, f"new {number}"))
    assert {name for name, error in ends.errors.items() if isinstance(error, Cancelled)} == {
        str(number) for number in range(0, most, 2)
    }
    gate.set()
    await ends.of(*(f"new {number}" for number in range(most // 2)), *map(str, range(most)))
    assert ends.errors["new 0"] is None


async def test_a_request_that_is_hurried_ends_when_its_limit_passes_however_long_the_others_run(
    execution: Execution, ends: Ends
) -> None:
    gate = threading.Event()
    blocked = Doubler(gate=gate)
    for number in range(PARALLEL):
        execution.submit(inference(blocked, f"running {number}", rows=MOST_ROWS))
    execution.start()
    for name, limit in (("later", 0.02), ("hasty", 0.01), ("patient", 600.0), ("between", 0.015)):
        one = inference(blocked, name, limit=limit)
        execution.submit(one)
        execution.hurry(one)
    await ends.of("hasty", "between", "later")
    assert "patient" not in ends.errors
    error = ends.errors["hasty"]
    assert isinstance(error, DeadlineExceeded)
    assert re.fullmatch(r"queue: expected start within 10000 us, waited \d+ us", str(error))
    gate.set()
    await ends.of("patient")
    assert ends.errors["patient"] is None


PATIENT = ModelSettings(max_batch=4, max_queue_delay=30.0)


async def test_a_batch_that_may_wait_runs_once_it_is_full(execution: Execution, ends: Ends) -> None:
    servable = Doubler(settings=PATIENT)
    for number in range(3):
        execution.submit(inference(servable, str(number)))
        execution.start()
    assert servable.threads == []
    execution.submit(inference(servable, "3"))
    execution.start()
    await ends.of("0", "1", "2", "3")
    assert len(servable.threads) == 1


async def test_a_batch_that_may_wait_runs_when_its_time_is_over(execution: Execution, ends: Ends) -> None:
    servable = Doubler(settings=ModelSettings(max_queue_delay=0.01))
    for name in ("one", "two"):
        execution.submit(inference(servable, name))
        execution.start()
    await ends.of("one", "two")
    assert len(servable.threads) == 1


async def test_a_request_whose_limit_is_shorter_does_not_wait_for_others(execution: Execution, ends: Ends) -> None:
    servable = Doubler(settings=PATIENT)
    execution.submit(inference(servable, "hasty", limit=20.0))
    execution.start()
    await ends.of("hasty")
    assert ends.errors["hasty"] is None


async def test_a_full_batch_does_not_wait_behind_one_of_another_kind(execution: Execution, ends: Ends) -> None:
    servable = Doubler(settings=PATIENT)
    execution.submit(inference(servable, "growing"))
    execution.submit(inference(servable, "full", rows=4, kind="another kind"))
    execution.start()
    await ends.of("full")
    assert "growing" not in ends.outputs


async def test_a_failure_is_a_result(execution: Execution, ends: Ends) -> None:
    failing = Doubler(error=Internal("execution failed: boom"))
    for name in ("one", "two", "three"):
        await alone(execution, ends, failing, name)
        assert isinstance(ends.errors[name], Internal)
        assert ends.outputs[name] == ()


class Exploding(Doubler):
    """Fails as nobody foresaw."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        raise MemoryError(f"no room for {len(inputs)} inputs and {len(outputs)} outputs")


async def test_a_failure_that_nobody_foresaw_ends_its_requests_and_leaves_room_for_others(
    execution: Execution, ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    exploding = Exploding()
    for name in ("one", "two", "three", "four"):
        await alone(execution, ends, exploding, name)
        assert isinstance(ends.errors[name], Internal)
    assert "no room" in caplog.text


async def test_an_owner_that_fails_over_one_request_still_hears_of_those_beside_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def finish(ended: Ended) -> None:
        heard.put_nowait(ended.batch[0].id.decode())
        if ended.batch[0].id == b"bad":
            raise ZeroDivisionError("owner")

    execution, failing = Execution(finish), Doubler(error=Internal("execution failed"))
    for name in ("bad", "good"):
        execution.submit(inference(failing, name))
    execution.start()
    assert {await asyncio.wait_for(heard.get(), 30) for _ in range(2)} == {"bad", "good"}
    assert "owner" in caplog.text
    await asyncio.to_thread(execution.close)


async def test_what_is_let_go_while_it_has_work_still_finishes_it(execution: Execution, ends: Ends) -> None:
    gate = threading.Event()
    leaving = Doubler(gate=gate)
    execution.submit(inference(leaving, "one"))
    execution.start()
    execution.keep(())
    gate.set()
    await ends.of("one")
    assert ends.errors["one"] is None


async def test_closing_waits_for_runs_in_progress(ends: Ends) -> None:
    execution, gate = Execution(ends), threading.Event()
    execution.submit(inference(Doubler(gate=gate), "one"))
    execution.start()
    closing = asyncio.create_task(asyncio.to_thread(execution.close))
    await asyncio.sleep(0)
    assert not ends.outputs
    gate.set()
    await closing
    await ends.of("one")
    assert ends.errors["one"] is None
