"""Retries and deadlines: UNAVAILABLE only, all attempts within one deadline."""

from __future__ import annotations

import itertools
import threading

import grpc
import pytest
from client.fake_server import FakeServer
from hypothesis import given
from hypothesis import strategies as st

from gnomon_client import (
    AsyncClient,
    Client,
    Control,
    DeadlineExceeded,
    InputError,
    Retries,
    Unavailable,
)
from gnomon_client.errors import BY_STATUS
from gnomon_client.retries import Attempts

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
QUICK = Retries(count=4, first_pause=0.001, longest_pause=0.002)
OTHERS = [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, UNAVAILABLE)]


def test_unavailable_twice_and_then_ok_is_an_answer() -> None:
    with FakeServer([UNAVAILABLE, UNAVAILABLE]) as server, Client(server.address, retries=QUICK) as client:
        assert client.live()
        assert server.recorder.methods() == ["ServerLive"] * 3


async def test_the_async_client_retries_in_the_same_way() -> None:
    with FakeServer([UNAVAILABLE, UNAVAILABLE]) as server:
        async with AsyncClient(server.address, retries=QUICK) as client:
            assert await client.live()
        assert server.recorder.methods() == ["ServerLive"] * 3


@pytest.mark.parametrize("code", OTHERS, ids=lambda code: code.name)
def test_no_other_status_is_tried_again(code: grpc.StatusCode) -> None:
    with FakeServer([code]) as server, Client(server.address, retries=QUICK) as client:
        with pytest.raises(BY_STATUS[code.name]):
            client.live()
        assert server.recorder.methods() == ["ServerLive"]


async def test_the_async_client_does_not_retry_another_status() -> None:
    with FakeServer([grpc.StatusCode.INVALID_ARGUMENT]) as server:
        async with AsyncClient(server.address, retries=QUICK) as client:
            with pytest.raises(BY_STATUS["INVALID_ARGUMENT"]):
                await client.live()
        assert server.recorder.methods() == ["ServerLive"]


def test_the_retries_end_after_their_count() -> None:
    with FakeServer(itertools.repeat(UNAVAILABLE)) as server, Client(server.address, retries=QUICK) as client:
        with pytest.raises(Unavailable):
            client.live()
        assert len(server.recorder.seen) == 1 + QUICK.count


def test_zero_retries_try_once() -> None:
    with FakeServer([UNAVAILABLE]) as server, Client(server.address, retries=Retries(0)) as client:
        with pytest.raises(Unavailable):
            client.live()
        assert len(server.recorder.seen) == 1


def test_all_attempts_share_one_deadline() -> None:
    endless = Retries(count=100_000, first_pause=0.01, longest_pause=0.01)
    with FakeServer(itertools.repeat(UNAVAILABLE)) as server, Client(server.address, retries=endless) as client:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            client.live(timeout=0.5)
        remaining = [seen.remaining for seen in server.recorder.seen]
    assert 1 < len(remaining) < endless.count
    assert all(left is not None and left <= 0.51 for left in remaining)
    assert remaining[-1] < remaining[0]  # type: ignore[operator]


def test_an_inference_and_the_question_before_it_share_one_deadline() -> None:
    pausing = Retries(count=1, first_pause=0.4)
    with FakeServer([UNAVAILABLE]) as server, Client(server.address, retries=pausing) as client:
        client.infer(server.add_model("m", x=("FP32", [-1])), [1.0], timeout=5.0)
        assert server.recorder.methods() == ["ModelMetadata", "ModelMetadata", "ModelInfer"]
        first, _, last = (seen.remaining for seen in server.recorder.seen)
    assert first is not None
    assert last is not None
    # The pause of the first call, less jitter and the rounding of deadlines on the wire, is gone from the second one.
    assert last < first - 0.1


def test_a_call_that_gets_no_answer_ends_at_its_deadline() -> None:
    with (
        FakeServer(gate=threading.Event()) as server,
        Client(server.address) as client,
        pytest.raises(DeadlineExceeded, match=f"{server.address}: expected an answer in time"),
    ):
        client.live(timeout=0.1)


async def test_an_async_call_that_gets_no_answer_ends_at_its_deadline() -> None:
    with FakeServer(gate=threading.Event()) as server:
        async with AsyncClient(server.address, timeout=0.1) as client:
            with pytest.raises(DeadlineExceeded):
                await client.live()


def test_no_timeout_at_all_means_no_deadline() -> None:
    with FakeServer() as server, Client(server.address, timeout=None) as client:
        assert client.live()
        # gRPC tells the server that a century and more is left.
        remaining = server.recorder.seen[0].remaining
        assert remaining is None or remaining > 1e9


def test_looking_is_tried_again_and_changing_is_not() -> None:
    with FakeServer([UNAVAILABLE]) as server, Control(server.address, retries=QUICK) as control:
        control.models()
        assert server.recorder.methods() == ["ListModels"] * 2
        server.recorder.script = iter([UNAVAILABLE])
        with pytest.raises(Unavailable):
            control.promote("m", 2)
        assert server.recorder.methods()[2:] == ["Promote"]


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(InputError, match="timeout: expected seconds > 0 or None, received"):
        Client(timeout=timeout)


@pytest.mark.parametrize(
    "wrong", [{"count": -1}, {"first_pause": 0.0}, {"longest_pause": 0.01}, {"factor": 0.5}, {"first_pause": -1.0}]
)
def test_retries_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="retries: expected"):
        Retries(**wrong)  # type: ignore[arg-type]


@given(retry=st.integers(0, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_a_pause_grows_by_its_factor_and_stays_within_its_jitter_and_limit(retry: int, chance: float) -> None:
    retries = Retries()
    base = min(0.1 * 2.0 ** min(retry, 64), 2.0)
    assert 0.8 * base <= retries.pause(retry, chance) <= 1.2 * base


def test_a_pause_is_only_taken_if_time_is_left_after_it() -> None:
    now = 100.0
    attempts = Attempts(Retries(count=3, first_pause=1.0, longest_pause=9.0), 2.5, lambda: now, lambda: 0.5)
    assert attempts.remaining() == 2.5
    assert attempts.pause() == 1.0
    now = 101.0
    assert attempts.remaining() == 1.5
    assert attempts.pause() is None
    now = 200.0
    assert attempts.remaining() == 0.0
