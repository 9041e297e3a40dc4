"""The replay: the recorded version finds exactly what it found, any other one is tried on everything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.shadow.fakes import POISON, Adder, added, on_the_wire, record_of

from gnomon_server.cli import offline
from gnomon_server.settings import MirrorSettings, Policy, RecordingSettings
from gnomon_server.shadow.outcome import DROPPED, Uncompared
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.shadow.recorder import Recorder
from gnomon_server.shadow.recording import Head, Segment, segments
from gnomon_server.shadow.replay import Replay
from gnomon_server.wire.record import Loss, Record
from gnomon_server.wire.tallies import PairTally

HOUR = 3600.0
STRANGER = record_of({"z": np.ones((1, 2), np.float32)}, {"sum": np.ones(1, np.float32)})


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def recorded(
    folder: Path, shadow: Adder, records: list[Record], executor: ThreadPoolExecutor, mirror: MirrorSettings
) -> tuple[PairTally, ...]:
    """Records what a pipeline does with records; returns its tally."""
    head = Head(shadow.model, shadow.version, shadow.digest, round(mirror.deadline * 1e9))
    recorder = Recorder(folder, RecordingSettings(True), head)
    pipeline = Pipeline(shadow, mirror, "", executor, recorder)
    for one in records:
        pipeline.take(one, len(on_the_wire(one)))
    running = asyncio.create_task(pipeline.run())
    while (report := pipeline.report("epoch")).queue_depth:
        await asyncio.sleep(0.001)
    await pipeline.finish(running, 60)
    return report.pairs


def replayed(folder: Path, shadow: Adder) -> Replay:
    replay = Replay(shadow, 256)
    for path in segments(folder):
        with Segment(path) as segment:
            assert segment.head is not None
            for run in segment:
                replay.take(segment.head, run)
    return replay


async def test_the_recorded_version_reproduces_its_tally_to_the_last_bit(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    random = np.random.default_rng(7)
    records = [added(random.normal(size=(3, 2)).tolist(), wrong=random.choice([0, 1e-4, 0.3])) for _ in range(50)]
    records += [added([[1, POISON]]), STRANGER, added(age=HOUR), added(primary=3, wrong=1)]
    then = await recorded(tmp_path, Adder(bias=0.01), records, executor, MirrorSettings(batch_rows=16))
    replay = replayed(tmp_path, Adder(bias=0.01))
    assert replay.snapshot() == then
    assert {tally.primary for tally in then} == {1, 3}
    assert (replay.comparable, replay.differing) == (replay.runs, 0)
    assert sum(replay.received.values()) == len(records)


async def test_what_was_late_after_its_run_is_late_again_beside_what_was_not(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    gate = threading.Event()
    mirror = MirrorSettings(deadline=HOUR)
    shadow = Adder(gate)
    # One misses the deadline while the shadow runs, as soon as its clock says so.
    records = [added(age=HOUR - 0.3, wrong=1), added(wrong=1), added()]
    asyncio.get_running_loop().call_later(0.6, gate.set)
    then = await recorded(tmp_path, shadow, records, executor, mirror)
    assert (then[0].timeout, then[0].compared, shadow.runs) == (1, 2, [3])
    again = Adder()
    replay = replayed(tmp_path, again)
    assert replay.snapshot() == then
    assert again.runs == [3]
    assert replay.differing == 0


async def test_what_load_alone_decided_stays_for_the_recorded_version_and_is_tried_on_another(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    records = [added(), added(age=HOUR), added(wrong=1)]
    room_for_two = MirrorSettings(queue_bytes=1500)
    (then,) = await recorded(tmp_path, Adder(), records, executor, room_for_two)
    assert (then.compared, then.timeout, then.dropped) == (1, 1, 1)
    assert replayed(tmp_path, Adder()).snapshot() == (then,)
    other = Adder()
    other.version, other.digest = 3, "sha256:other"
    replay = replayed(tmp_path, other)
    (now,) = replay.snapshot()
    assert (now.shadow, now.compared, now.disagreeing, now.timeout, now.dropped) == (3, 3, 1, 0, 0)
    assert (replay.comparable, replay.differing) == (0, 0)


async def test_a_file_that_says_it_is_the_recorded_version_and_answers_otherwise_is_found_out(
    tmp_path: Path, executor: ThreadPoolExecutor
) -> None:
    await recorded(tmp_path, Adder(), [added()] * 3, executor, MirrorSettings(batch_rows=2))
    replay = replayed(tmp_path, Adder(bias=1))
    assert (replay.comparable, replay.differing) == (2, 2)


@settings(max_examples=30)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.floats(-5, 5, width=32), st.floats(-5, 5, width=32)), max_size=3),
        min_size=1,
        max_size=12,
    ),
    wrong=st.floats(0, 1, width=32),
    poisoned=st.integers(0, 20),
    batch_rows=st.integers(1, 8),
    coalescable=st.booleans(),
)
def test_any_traffic_is_reproduced(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[tuple[float, float]]],
    wrong: float,
    poisoned: int,
    batch_rows: int,
    coalescable: bool,
) -> None:
    folder = tmp_path_factory.mktemp("recording")
    records = [added(lines, wrong=wrong if number % 2 else 0) for number, lines in enumerate(rows)]
    if poisoned < len(records):
        records[poisoned] = added([[1, POISON]])

    async def then() -> tuple[PairTally, ...]:
        with ThreadPoolExecutor(1) as executor:
            shadow = Adder(bias=1e-5, coalescable=coalescable)
            return await recorded(folder, shadow, records, executor, MirrorSettings(batch_rows=batch_rows))

    tally = asyncio.run(then())
    replay = replayed(folder, Adder(bias=1e-5, coalescable=coalescable))
    assert replay.snapshot() == tally
    assert replay.differing == 0


def test_what_never_reached_the_worker_is_in_the_outcomes_of_a_replay(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, RecordingSettings(True), Head("adder", 2, "sha256:adder", 10**10))
    recorder.lost(Loss(1, 3, 2))
    one = added()
    recorder.settle((one,), (Uncompared((one,), DROPPED),))
    recorder.lost(Loss(1, 1, 0))
    recorder.close()
    replay = Replay(Adder(), 256)
    assert offline.replay(replay, segments(tmp_path)) == 0
    (report,) = offline.replayed(replay, Adder(), Policy())
    found = report.outcomes
    assert (found.selected, found.dropped, found.primary_error, found.pending) == (7, 5, 2, 0)
