"""The format of recordings: every frame comes back, and a damaged end costs no frame before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.shadow.fakes import added

from gnomon_server.errors import InvalidRequest
from gnomon_server.shadow import recording
from gnomon_server.shadow.recording import MAGIC, Found, Head, OutputFound, Run, Segment
from gnomon_server.wire.record import Record

DOCUMENT = Path(__file__).parents[3] / "docs" / "recording.md"
HEAD = Head("m", 2, "sha256:2", 10, 20)
TIMES = st.integers(0, 2**63 - 1)
IDS = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 2**31)
FLOATS = st.floats(allow_nan=False)
RECORDS = st.builds(
    Record,
    primary=st.integers(1, 2**63 - 1),
    sampled=st.booleans(),
    start_ns=TIMES,
    end_ns=TIMES,
    run_start_ns=TIMES,
    run_end_ns=TIMES,
    trace_id=st.binary(min_size=16, max_size=16),
    span_id=IDS,
    parent_id=IDS,
    peer=st.binary(max_size=20),
    trace_state=st.binary(max_size=20),
    request=st.binary(max_size=200),
    response=st.binary(max_size=200),
    sample=st.floats(0, 1),
)
FOUND = st.builds(
    Found,
    FLOATS,
    COUNTS,
    st.lists(st.builds(OutputFound, st.text(max_size=9), COUNTS, COUNTS, FLOATS, FLOATS), max_size=3).map(tuple),
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    records = tuple(draw(st.lists(RECORDS, max_size=3)))
    outcomes = tuple(draw(st.sampled_from(["compared", "timeout"])) for _ in records)
    return Run(draw(TIMES), draw(TIMES), outcomes, draw(FOUND), records)


def written(path: Path, *frames: Head | Run) -> bytes:
    data = MAGIC + b"".join(map(recording.encode, frames))
    path.write_bytes(data)
    return data


def read(path: Path) -> tuple[Head | None, list[Run], int]:
    with Segment(path) as segment:
        return segment.head, list(segment), segment.cut


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recording") / "one.gnomon"


@given(st.lists(runs(), max_size=4))
def test_every_run_comes_back_as_it_was(path: Path, frames: list[Run]) -> None:
    written(path, HEAD, *frames)
    assert read(path) == (HEAD, frames, 0)


@given(st.lists(runs(), min_size=1, max_size=3), st.data())
def test_a_segment_that_is_torn_anywhere_keeps_every_frame_before(path: Path, frames: list[Run], data: Any) -> None:
    whole = written(path, HEAD, *frames)
    ends = [len(MAGIC) + len(recording.encode(HEAD))]
    for frame in frames:
        ends.append(ends[-1] + len(recording.encode(frame)))
    torn = data.draw(st.integers(len(MAGIC), len(whole)))
    path.write_bytes(whole[:torn])
    kept = sum(end <= torn for end in ends[1:])
    last = max((end for end in ends if end <= torn), default=len(MAGIC))
    assert read(path) == (HEAD if torn >= ends[0] else None, frames[:kept], torn - last)


@given(st.lists(runs(), min_size=1, max_size=3), st.data())
def test_a_byte_that_changed_is_never_taken_for_what_was_written(path: Path, frames: list[Run], data: Any) -> None:
    whole = bytearray(written(path, HEAD, *frames))
    position = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    head, found, cut = read(path)
    assert found == frames[: len(found)]
    assert len(found) < len(frames)
    assert head in (None, HEAD)
    assert cut > 0


def test_what_is_no_recording_is_refused_by_name(tmp_path: Path) -> None:
    other = tmp_path / "model.onnx"
    other.write_bytes(b"\x08\x09onnx")
    with pytest.raises(InvalidRequest, match=r"model\.onnx: expected a recording that begins with gnomonR1"):
        Segment(other)
    with pytest.raises(InvalidRequest, match="absent: cannot be read: No such file"):
        Segment(tmp_path / "absent")
    with pytest.raises(InvalidRequest, match=r"expected files \*\.gnomon, found none"):
        recording.segments(tmp_path)


def test_the_document_reads_what_is_written_in_the_order_that_it_says(tmp_path: Path) -> None:
    path = tmp_path / "one.gnomon"
    record = added(((1, 2),))
    run = Run(1, 2, ("compared",), Found(1.0, 0, (OutputFound("sum", 1, 0, 0.5, 0.25),)), (record,))
    written(path, HEAD, run)
    # A torn frame, which the reader of the document leaves out, too.
    with path.open("ab") as file:
        file.write(recording.encode(run)[:-1])
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    head, only = names["frames"](path)
    expected = {"model": "m", "shadow": 2, "digest": "sha256:2", "deadline_ns": 10, "created_ns": 20}
    assert head == {"kind": "head", **expected}
    times = [record.start_ns, record.end_ns, record.run_start_ns, record.run_end_ns]
    trace = [record.trace_id, record.span_id, record.parent_id, record.peer, record.trace_state]
    selection = [record.sample, record.sequence, record.starts, record.ends]
    assert only == {
        "kind": "run",
        "start_ns": 1,
        "end_ns": 2,
        "outcomes": ["compared"],
        "found": [1.0, 0, [["sum", 1, 0, 0.5, 0.25]]],
        "records": [[record.primary, record.sampled, *times, *trace, record.request, record.response, *selection]],
    }
