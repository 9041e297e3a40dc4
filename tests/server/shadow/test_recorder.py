"""The recorder: what became of requests is on disk at once, within its bounds, and its failure stops nothing."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from server.shadow.fakes import added

from gnomon_server.settings import RecordingSettings
from gnomon_server.shadow.outcome import DROPPED, TIMEOUT, Uncompared
from gnomon_server.shadow.recorder import PARTS, Recorder
from gnomon_server.shadow.recording import Head, Run, Segment, segments
from gnomon_server.wire.record import Record

HEAD = Head("m", 2, "sha256:2", 10**10)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        self.now += 1
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def recorder(folder: Path, clock: Clock, max_bytes: int = 1 << 20, max_age: float = 1000.0) -> Recorder:
    return Recorder(folder, RecordingSettings(True, max_bytes, max_age), HEAD, clock)


def drop(recorder: Recorder, record: Record) -> None:
    recorder.settle((record,), (Uncompared((record,), DROPPED),))


def found(folder: Path) -> list[Run]:
    runs: list[Run] = []
    for path in segments(folder):
        with Segment(path) as segment:
            runs += segment
            assert segment.cut == 0
    return runs


def numbered(number: int) -> Record:
    return added(((number, 0),))


def test_what_was_settled_is_on_disk_before_the_recorder_is_closed(tmp_path: Path, clock: Clock) -> None:
    one = recorder(tmp_path / "r", clock)
    first, second = numbered(1), numbered(2)
    drop(one, first)
    one.settle((first, second), (Uncompared((second,), TIMEOUT, 5, 9), Uncompared((first,), TIMEOUT, 5, 9)))
    dropped, ran = found(tmp_path / "r")
    assert (dropped.outcomes, dropped.records, dropped.end_ns) == (("dropped",), (first,), 0)
    # In the order in which they ran.
    assert (ran.outcomes, ran.records, ran.start_ns, ran.end_ns) == (("timeout", "timeout"), (first, second), 5, 9)


def test_only_its_owner_can_read_a_recording(tmp_path: Path, clock: Clock) -> None:
    drop(recorder(tmp_path / "r", clock), numbered(1))
    (path,) = segments(tmp_path / "r")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_recording_never_takes_more_than_its_bytes_and_keeps_the_newest(tmp_path: Path, clock: Clock) -> None:
    one = recorder(tmp_path, clock, max_bytes=8192)
    (stranger := tmp_path / "notes.gnomon").write_bytes(b"not ours")
    for number in range(100):
        drop(one, numbered(number))
        assert sum(path.stat().st_size for path in tmp_path.glob("*-*.gnomon")) <= 8192
    assert stranger.read_bytes() == b"not ours"
    stranger.unlink()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 8192 * (PARTS - 2) / PARTS
    kept = [run.records[0] for run in found(tmp_path)]
    assert kept[-1].request == numbered(99).request
    assert len(kept) < 100


def test_a_recording_keeps_nothing_that_is_older_than_its_age(tmp_path: Path, clock: Clock) -> None:
    one = recorder(tmp_path, clock, max_age=100.0)
    for number in range(10):
        drop(one, numbered(number))
        clock.pass_(20)
        one.tend()
        for path in segments(tmp_path) if any(tmp_path.iterdir()) else ():
            assert clock.now - int(path.name[:20]) <= 100e9
    kept = [run.records[0].request for run in found(tmp_path)]
    assert kept == [numbered(number).request for number in range(10 - len(kept), 10)]
    assert 2 <= len(kept) <= 5
    clock.pass_(101)
    one.tend()
    assert list(tmp_path.iterdir()) == []


def test_the_segment_of_a_killed_worker_is_left_as_it_is_and_counts(tmp_path: Path, clock: Clock) -> None:
    drop(recorder(tmp_path, clock), numbered(1))
    (torn,) = segments(tmp_path)
    torn.write_bytes(torn.read_bytes()[:-3])
    drop(recorder(tmp_path, clock), numbered(2))
    first, second = segments(tmp_path)
    assert first == torn
    with Segment(first) as segment:
        assert list(segment) == []
        assert segment.cut > 0
    with Segment(second) as segment:
        assert len(list(segment)) == 1


def test_a_run_that_is_larger_than_the_whole_recording_is_left_out(tmp_path: Path, clock: Clock) -> None:
    one = recorder(tmp_path, clock, max_bytes=4096)
    drop(one, added([(1, 2)] * 1000))
    drop(one, numbered(1))
    assert one.skipped == 1
    assert [run.records[0].request for run in found(tmp_path)] == [numbered(1).request]


def test_a_full_disk_ends_the_recording_with_a_whole_frame_and_stops_nothing(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    one = recorder(tmp_path, clock)
    drop(one, numbered(1))
    (path,) = segments(tmp_path)
    # A limit on the size of files does what a full disk does: a part of the frame is written.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        drop(one, numbered(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    drop(one, numbered(3))
    assert "No space left on device" in one.failure
    assert one.failure in caplog.text
    assert [run.records[0].request for run in found(tmp_path)] == [numbered(1).request]
