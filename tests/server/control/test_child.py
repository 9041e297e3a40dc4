from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import child_program
import psutil
import pytest

from gnomon_server.control import child as children
from gnomon_server.control.child import Child
from gnomon_server.wire.messages import FromChild, WorkerAck
from gnomon_server.wire.plans import VersionRef, WorkerPlan

TESTS = str(Path(child_program.__file__).parent)


class Diary:
    """Everything that a child's owner is told, in order; sends a plan at each birth, as an owner must."""

    def __init__(self, behaviour: str, monkeypatch: pytest.MonkeyPatch, patience: int | None = None) -> None:
        monkeypatch.setenv("PYTHONPATH", TESTS)
        monkeypatch.setenv("GNOMON_TEST_CHILD", behaviour)
        self.events: list[str] = []
        self._news = asyncio.Event()
        self.child = Child("a child", child_program.NAME, "{}", self._born, self._heard, self._died, patience)

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self._news.set()

    def _born(self, child: Child) -> None:
        self._note(f"born {child.life}")
        child.send(WorkerPlan(VersionRef("m", 1, "/m/1"), "", ""))

    def _heard(self, _: Child, message: FromChild) -> None:
        assert isinstance(message, WorkerAck)
        self._note(f"heard {message.version.model}")

    def _died(self, child: Child) -> None:
        self._note(f"died {child.life}")


async def test_a_child_is_born_follows_its_plan_and_ends_when_it_is_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("", monkeypatch)
    diary.child.start()
    await diary.until(lambda: "heard m" in diary.events)
    assert diary.child.pid is not None
    process = psutil.Process(diary.child.pid)
    await diary.child.drain(10)
    assert diary.events == ["born 1", "heard m", "died 1"]
    assert diary.child.pid is None
    assert not process.is_running()


async def test_a_killed_child_lives_again_and_gets_its_plan_again(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("", monkeypatch)
    diary.child.start()
    for life in (1, 2):
        await diary.until(lambda life=life: diary.events.count("heard m") == life)  # type: ignore[misc]
        assert diary.child.pid is not None
        psutil.Process(diary.child.pid).kill()
    await diary.until(lambda: diary.events.count("heard m") == 3)
    await diary.child.drain(10)
    assert diary.events == [event for life in (1, 2, 3) for event in (f"born {life}", "heard m", f"died {life}")]


async def test_what_a_child_said_last_is_heard_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("dies", monkeypatch)
    diary.child.start()
    await diary.until(lambda: "died 2" in diary.events)
    # Between two lives there is nobody to wait for, however long the next one is away.
    await asyncio.wait_for(diary.child.drain(60), 30)
    assert diary.events[:6] == ["born 1", "heard said", "died 1", "born 2", "heard said", "died 2"]


async def test_a_child_that_does_not_heed_a_drain_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("stubborn", monkeypatch)
    diary.child.start()
    await diary.until(lambda: "heard m" in diary.events)
    await asyncio.wait_for(diary.child.drain(0.05), 30)
    assert diary.events[-1] == "died 1"


async def test_a_child_that_hangs_can_be_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("", monkeypatch)
    diary.child.start()
    await diary.until(lambda: "heard m" in diary.events)
    assert diary.child.pid is not None
    psutil.Process(diary.child.pid).send_signal(signal.SIGSTOP)
    await asyncio.wait_for(diary.child.kill(), 30)
    assert diary.events[-1] == "died 1"
    assert diary.child.pid is None


async def test_no_child_tells_anyone_about_its_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    diary = Diary("", monkeypatch)
    diary.child.start()
    await diary.until(lambda: "heard m" in diary.events)
    assert diary.child.pid is not None
    assert psutil.Process(diary.child.pid).environ()["ORT_DISABLE_TELEMETRY"] == "1"
    await diary.child.drain(10)


async def test_what_is_sent_to_a_child_between_two_lives_is_lost_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("", monkeypatch)
    plan = WorkerPlan(VersionRef("early", 1, "/m/1"), "", "")
    diary.child.send(plan)
    diary.child.start()
    await diary.until(lambda: "heard m" in diary.events)
    await diary.child.drain(10)
    diary.child.send(plan)
    assert diary.events == ["born 1", "heard m", "died 1"]


async def test_a_child_that_always_dies_young_waits_longer_each_time_and_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diary = Diary("dies", monkeypatch, patience=3)
    delays = []
    diary.child.start()
    for life in (1, 2, 3):
        await diary.until(lambda life=life: f"died {life}" in diary.events)  # type: ignore[misc]
        assert diary.child.young == life
        assert diary.child.ending == "ended with status 0"
        delays.append(diary.child.delay)
    assert delays == sorted(set(delays))
    assert diary.child.given_up
    # Nobody is left to wait for.
    await asyncio.wait_for(diary.child.drain(60), 30)
    assert diary.events[-1] == "died 3"


async def test_a_life_that_grew_old_starts_the_count_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    diary = Diary("", monkeypatch, patience=2)
    diary.child.start()
    for life, age, young in ((1, 0.0, 1), (2, 60.0, 0), (3, 0.0, 1), (4, 0.0, 2)):
        await diary.until(lambda life=life: diary.events.count("heard m") == life)  # type: ignore[misc]
        assert diary.child.pid is not None
        monkeypatch.setattr(children, "YOUNG_SECONDS", 30.0 - age)
        psutil.Process(diary.child.pid).kill()
        await diary.until(lambda life=life: f"died {life}" in diary.events)  # type: ignore[misc]
        assert (diary.child.young, diary.child.ending) == (young, "was killed by SIGKILL")
    assert diary.child.given_up
