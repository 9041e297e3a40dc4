from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import profiled
import pytest
from server.shadow.fakes import POISON, Adder, on_the_wire, record_of

from gnomon_server.settings import MirrorSettings
from gnomon_server.shadow.pipeline import NOTHING, Pipeline
from gnomon_server.wire.drift import WindowCounts
from gnomon_server.wire.record import Record

WINDOW = 3600.0


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def record(*rows: tuple[float, float], seconds: float = 0.0, primary: int = 1) -> Record:
    """Returns a request with its right answer, which ended so many seconds later than others."""
    x = np.array(rows, np.float32).reshape(-1, 2)
    made = record_of({"x": x}, {"sum": x.sum(axis=1)})
    return msgspec.structs.replace(made, primary=primary, end_ns=made.end_ns + round(seconds * 1e9))


async def counted(
    executor: ThreadPoolExecutor, records: list[Record], window: float = WINDOW, shadow: Adder | None = None
) -> list[WindowCounts]:
    mirror = MirrorSettings(deadline=1e6)
    pipeline = Pipeline(shadow or Adder(), mirror, "", executor, looking=NOTHING, window=window)
    pipeline.profiling.use(1, profiled.known())
    for one in records:
        pipeline.take(one, len(on_the_wire(one)))
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    return list(pipeline.report("epoch").windows)


def counts(found: WindowCounts) -> list[int]:
    return [int(count) for count in np.frombuffer(found.counts, "<i8")]


async def test_rows_and_answers_are_counted_by_the_primarys_profile(executor: ThreadPoolExecutor) -> None:
    (found,) = await counted(executor, [record((0, 0), (1, 0)), record((1, 5)), record()])
    assert (found.key.model, found.key.version, found.key.shadow, found.key.digest) == ("adder", 1, 2, "sha256:p")
    assert found.key.seconds == WINDOW
    # x[0]: 0, 1; x[1]: 0 and a novel 5; sum: 0, 1 and a novel 6.
    assert counts(found) == [1, 2, 0, 0, 2, 0, 1, 1, 1, 0, 1]


async def test_what_the_shadow_fails_on_is_counted_once(executor: ThreadPoolExecutor) -> None:
    (found,) = await counted(executor, [record((0, 0)), record((POISON, 0)), record((1, 0))])
    assert counts(found)[:4] == [1, 1, 0, 1]


async def test_another_answer_of_the_shadow_changes_nothing(executor: ThreadPoolExecutor) -> None:
    (found,) = await counted(executor, [record((0, 0), (1, 0))], shadow=Adder(bias=3.0))
    assert counts(found) == [1, 1, 0, 0, 2, 0, 0, 1, 1, 0, 0]


async def test_each_window_has_the_rows_that_ended_in_it(executor: ThreadPoolExecutor) -> None:
    records = [record((0, 0), (0, 0)), record((1, 0), seconds=WINDOW), record((0, 0))]
    first, second = await counted(executor, records)
    assert second.key.number == first.key.number + 1
    assert (counts(first)[:4], counts(second)[:4]) == ([3, 0, 0, 0], [0, 1, 0, 0])


async def test_requests_of_another_primary_are_not_counted(executor: ThreadPoolExecutor) -> None:
    (found,) = await counted(executor, [record((0, 0)), record((1, 0), primary=7)])
    assert counts(found)[:4] == [1, 0, 0, 0]


async def test_without_a_window_nothing_is_counted(executor: ThreadPoolExecutor) -> None:
    assert await counted(executor, [record((0, 0))], window=0.0) == []


async def test_reports_hold_what_is_new(executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnomon_server.shadow.profiling.EVERY", 0.0)
    settled = asyncio.Event()
    pipeline = Pipeline(Adder(), MirrorSettings(deadline=1e6), "", executor, looking=NOTHING, window=WINDOW)
    pipeline.profiling.use(1, profiled.known())
    running = asyncio.create_task(pipeline.run())
    seen = []
    for rows in ([(0.0, 0.0)], [(1.0, 0.0)]):
        one = record(*rows)
        pipeline.take(one, len(on_the_wire(one)))
        async with asyncio.timeout(30):
            while not (found := pipeline.report("epoch").windows):
                await asyncio.sleep(0)
        seen.append(counts(found[0])[:4])
    assert seen == [[1, 0, 0, 0], [0, 1, 0, 0]]
    settled.set()
    await pipeline.finish(running, 60)
    assert pipeline.report("epoch").windows == ()
