"""Sequences on their way to shadows: all of one or none of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_calls import output, request
from server.serving.fakes import Doubler, Reader, shadow
from server.serving.test_inferences import Bench, answered

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import Internal
from gnomon_server.models import parameters
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.selection import position
from gnomon_server.serving.sequences import IDLE_SECONDS, Fate, Sequences
from gnomon_server.wire.record import ALONE, Place

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
TARGET = shadow("nowhere", sample=0.5)
MIDDLE = Place(b"#1", starts=False, ends=False)
FIRST, LAST = MIDDLE._replace(starts=True), MIDDLE._replace(ends=True)


@pytest.fixture
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        yield f"{folder}/feed.sock"


def asked(sequence: int | str, step: int = 1, rows: int = 1, **options: bool) -> pb.ModelInferRequest:
    """A request as tritonclient makes it, of a sequence of three."""
    given = {"sequence_start": step == 0, "sequence_end": step == 2, **options}
    flags = {name: pb.InferParameter(bool_param=value) for name, value in given.items()}
    key = (
        pb.InferParameter(string_param=sequence)
        if isinstance(sequence, str)
        else pb.InferParameter(int64_param=sequence)
    )
    inputs = {"x": np.repeat(ROW, rows, axis=0)}
    return request("line", inputs, id=f"{sequence}/{step}", parameters={"sequence_id": key, **flags})


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({}, ALONE),
        ({"sequence_id": {"int64_param": 0}, "sequence_start": {"bool_param": True}}, ALONE),
        ({"sequence_id": {"string_param": ""}}, ALONE),
        ({"sequence_start": {"bool_param": True}}, ALONE),
        ({"sequence_id": {"int64_param": 7}}, Place(b"#7", starts=False, ends=False)),
        ({"sequence_id": {"uint64_param": 7}, "sequence_end": {"bool_param": True}}, Place(b"#7", False, ends=True)),
        ({"sequence_id": {"int64_param": -1}}, Place(b"#18446744073709551615", starts=False, ends=False)),
        (
            {"sequence_id": {"string_param": "7"}, "sequence_start": {"bool_param": True}},
            Place(b"$7", starts=True, ends=False),
        ),
    ],
)
def test_a_request_says_where_it_stands(given: dict[str, dict[str, Any]], place: Place) -> None:
    message = pb.ModelInferRequest(parameters={name: pb.InferParameter(**value) for name, value in given.items()})
    assert parameters.place(message) == place


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0, 5)), max_size=60))
def test_what_the_first_request_decides_holds_while_the_share_changes(steps: list[tuple[int, bool, float]]) -> None:
    sequences, now = Sequences(), 0.0
    decided: dict[int, Fate] = {}
    for number, selected, passed in steps:
        now += passed
        place = Place(b"#%d" % number, starts=number not in decided, ends=False)
        fate = sequences.fate(TARGET, place, now, lambda selected=selected: selected)  # type: ignore[misc]
        assert fate is decided.setdefault(number, Fate.MIRRORED if selected else Fate.UNSEEN)


def test_once_a_request_is_lost_the_rest_is_until_the_next_start() -> None:
    sequences = Sequences()
    assert sequences.fate(TARGET, FIRST, 0, lambda: True) is Fate.MIRRORED
    sequences.lose(TARGET, MIDDLE, 1)
    assert sequences.fate(TARGET, MIDDLE, 2, lambda: True) is Fate.LOST
    # Another shadow has its own.
    assert sequences.fate(shadow("", version=3), MIDDLE, 2, lambda: True) is Fate.MIRRORED
    assert sequences.fate(TARGET, FIRST, 3, lambda: True) is Fate.MIRRORED


def test_a_worker_that_begins_anew_sees_no_sequence_from_its_middle() -> None:
    sequences, anew = Sequences(), shadow("", epoch="another")
    other = Place(b"#2", starts=True, ends=False)
    assert sequences.fate(TARGET, FIRST, 0, lambda: True) is Fate.MIRRORED
    assert sequences.fate(TARGET, other, 0, lambda: False) is Fate.UNSEEN
    for now in (1, 2):
        assert sequences.fate(anew, MIDDLE, now, lambda: True) is Fate.LOST
        assert sequences.fate(anew, other._replace(starts=False), now, lambda: True) is Fate.UNSEEN


def test_an_end_and_a_long_silence_end_a_sequence() -> None:
    for place, now in ((LAST, 1.0), (MIDDLE, IDLE_SECONDS + 1)):
        sequences = Sequences()
        sequences.lose(TARGET, FIRST, 0)
        sequences.end(TARGET, place)
        assert sequences.fate(TARGET, MIDDLE, now, lambda: True) is Fate.MIRRORED


def test_what_has_no_place_is_counted_and_decided_anew() -> None:
    sequences = Sequences(most=2)
    for number in range(3):
        sequences.fate(TARGET, Place(b"#%d" % number, starts=True, ends=False), number, lambda: True)
    assert sequences.evicted == 1
    assert sequences.fate(TARGET, Place(b"#0", starts=False, ends=False), 3, lambda: False) is Fate.UNSEEN
    assert sequences.fate(TARGET, Place(b"#2", starts=False, ends=False), 3, lambda: False) is Fate.MIRRORED


async def test_a_sequence_is_selected_by_its_id_whole_whatever_the_ids_of_its_requests(address: str) -> None:
    async with Reader(address) as worker:
        bench, feed = Bench(Doubler(1)), Feed(shadow(address, sample=0.5), 1 << 20)
        await feed.connect()
        bench.feeds = (feed,)
        expected = []
        for step in range(3):
            for number in range(40):
                answer = answered(await bench.ask(asked(number + 1, step)))
                assert output(answer).tolist() == (2 * ROW).tolist()
                if position("", b"#%d" % (number + 1)) < 0.5:
                    expected.append(f"{number + 1}/{step}")
            # From here on the guard lets everything pass, and then next to nothing.
            feed.aim(shadow(address, sample=(1.0, 0.001, 1.0)[step]))
        assert 0 < len(expected) < 120
        received = await worker.records(len(expected))
        assert [pb.ModelInferRequest.FromString(one.request).id for one in received] == expected
        assert [(one.starts, one.ends) for one in received[:1] + received[-1:]] == [(True, False), (False, True)]
        assert [count.selected for count in feed.counts()] == [len(expected)]
        feed.close()
        await asyncio.to_thread(bench.inferences.close)


async def test_the_rest_of_a_sequence_that_lost_a_request_is_dropped_and_counted(address: str) -> None:
    async with Reader(address) as worker:
        bench, feed = Bench(Doubler(1)), Feed(shadow(address), 1500)
        await feed.connect()
        bench.feeds = (feed,)
        await bench.ask(asked(1, 0))
        # Too large for what is left of the feed.
        await bench.ask(asked(1, 1, rows=100))
        feed.flush()
        await bench.ask(asked(1, 1))
        await bench.ask(asked("1", 1))
        await bench.ask(asked(1, 2))
        await bench.ask(asked(1, 0))
        arrived = await worker.records(3)
        assert [pb.ModelInferRequest.FromString(one.request).id for one in arrived] == ["1/0", "1/1", "1/0"]
        assert [(count.selected, count.dropped) for count in feed.counts()] == [(6, 3)]
        feed.close()
        await asyncio.to_thread(bench.inferences.close)


async def test_what_the_primary_fails_on_is_its_error_and_an_explanation_decides_nothing(address: str) -> None:
    async with Reader(address):
        bench, feed = Bench(Doubler(1)), Feed(shadow(address, sample=0.5), 1 << 20)
        await feed.connect()
        bench.feeds = (feed,)
        mirrored = next(number for number in range(1, 99) if position("", b"#%d" % number) < 0.5)
        told = answered(await bench.ask(asked(mirrored, 0, gnomon_explain=True)))
        assert told.parameters["gnomon_shadows"].string_param == "2"
        feed.aim(shadow(address, sample=1e-9))
        told = answered(await bench.ask(asked(mirrored, 1, gnomon_explain=True)))
        assert told.parameters["gnomon_shadows"].string_param == "2"
        feed.close()
        await asyncio.to_thread(bench.inferences.close)
        bench = Bench(Doubler(1, error=Internal("execution failed: boom")))
        feed = Feed(shadow(address), 1 << 20)
        bench.feeds = (feed,)
        await bench.ask(asked(1, 0))
        assert [(count.selected, count.primary_error) for count in feed.counts()] == [(1, 1)]
        await asyncio.to_thread(bench.inferences.close)
