"""The split of a model's requests between its primary and its canary."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_calls import output, request
from server.serving.fakes import Doubler, HeldCall

from gnomon_protos import inference_pb2 as pb
from gnomon_server.models import requests
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.serving.selection import position, selected
from gnomon_server.serving.split import Split
from gnomon_server.telemetry.sampling import Sampler

ONE, TWO = Doubler(1), Doubler(2)
ROW = np.ones((1, 3), np.float32)
SHARES = st.floats(min_value=0, max_value=1, exclude_min=True)
COUNT = 20_000


def call(message: bytes = b"", user: str = "") -> HeldCall:
    return HeldCall(message, {"x-user-id": user} if user else None)


@given(st.text(min_size=1, max_size=40), SHARES, SHARES)
def test_a_key_keeps_its_side_as_the_weight_grows(key: str, one: float, other: float) -> None:
    small, large = (Split(TWO, weight, "x-user-id") for weight in sorted((one, other)))
    assert large.takes(call(user=key), b"") or not small.takes(call(user=key), b"")
    assert Split(TWO, 1.0, "x-user-id").takes(call(user=key), b"")


@given(st.text(min_size=1, max_size=40), st.text(max_size=40), st.binary(max_size=40))
def test_the_metadata_decides_before_the_id_and_the_id_before_the_bytes(key: str, name: str, message: bytes) -> None:
    split, plain = Split(TWO, 0.5, "x-user-id"), Split(TWO, 0.5, "")
    assert split.takes(call(message, key), name.encode()) == split.takes(call(b"other", key), b"other")
    assert split.takes(call(message), key.encode()) == plain.takes(call(b"other", name), key.encode())
    assert split.takes(call(message), b"") == plain.takes(call(message, key), b"")


def test_the_share_is_the_weight_and_says_nothing_about_what_is_mirrored_or_about_the_next_canary() -> None:
    names = [f"user-{number}".encode() for number in range(COUNT)]
    for weight in (0.01, 0.2, 0.5):
        first = [Split(TWO, weight, "").takes(call(), name) for name in names]
        others = [Split(Doubler(3), weight, "").takes(call(), name) for name in names]
        mirrored = [selected(position(name.decode(), b""), weight) for name in names]
        expected = [(first, weight)] + [
            ([a and b for a, b in zip(first, side, strict=True)], weight * weight) for side in (others, mirrored)
        ]
        for side, share in expected:
            # The ids are fixed, so that this is no gamble: five standard deviations.
            assert abs(sum(side) - COUNT * share) < 5 * math.sqrt(COUNT * share * (1 - share))


@pytest.fixture
async def inferences() -> AsyncIterator[Inferences]:
    made = Inferences(Observation(Sampler(0.0, parent_based=True)), lambda _: ())
    yield made
    await asyncio.to_thread(made.close)


def table(weight: float, key: str = "x-user-id") -> RouteTable:
    split = Split(TWO, weight, key)
    return RouteTable({"line": ModelRoute("line", ONE, {1: ONE, 2: TWO}, (), split=split)})


async def ask(inferences: Inferences, routes: RouteTable, message: pb.ModelInferRequest, user: str = "") -> str:
    """Returns the version that answers."""
    held = call(message.SerializeToString(), user)
    inferences.accept(held, routes)
    inferences.after_pass()
    await asyncio.wait_for(held.over.wait(), 30)
    assert isinstance(held.result, bytes)
    answer = pb.ModelInferResponse.FromString(held.result)
    assert answer.id == message.id
    assert output(answer).tolist() == (2 * ROW).tolist()
    return answer.model_version


async def test_each_caller_is_answered_by_one_side_however_often_and_whoever_came_before(
    inferences: Inferences,
) -> None:
    routes = table(0.3)
    split = routes.models["line"].split
    assert split is not None
    seen = set()
    for turn in range(3):
        for user in map(str, range(40)):
            version = await ask(inferences, routes, request("line", {"x": ROW}, id=f"{turn} {user}"), user)
            assert version == ("2" if split.takes(call(user=user), b"") else "1")
            seen.add(version)
    assert seen == {"1", "2"}
    inferences.settle()
    counted = {(one.version, one.role) for one in inferences._observation.inferences()}
    assert counted == {(1, "primary"), (2, "canary")}


async def test_what_one_side_has_read_before_is_read_without_parsing(
    inferences: Inferences, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    parse = requests.parse

    def counted(message: bytes) -> pb.ModelInferRequest:
        parsed.append(message)
        return parse(message)

    monkeypatch.setattr(requests, "parse", counted)
    for weight in (1.0, 1e-12):
        parsed.clear()
        routes = table(weight)
        for number in range(5):
            await ask(inferences, routes, request("line", {"x": ROW}, id=f"{number}"))
        assert len(parsed) == 1


async def test_a_request_that_names_a_version_is_not_redirected(inferences: Inferences) -> None:
    routes = table(1.0)
    for _ in range(2):
        assert await ask(inferences, routes, request("line", {"x": ROW}, model_version="1")) == "1"
        assert await ask(inferences, routes, request("line", {"x": ROW})) == "2"
        assert await ask(inferences, routes, request("line", {"x": ROW}, model_version="2")) == "2"


async def test_without_a_canary_the_primary_answers_everything_again(inferences: Inferences) -> None:
    assert await ask(inferences, table(1.0), request("line", {"x": ROW})) == "2"
    without = RouteTable({"line": ModelRoute("line", ONE, {1: ONE, 2: TWO}, ())})
    assert await ask(inferences, without, request("line", {"x": ROW})) == "1"
