"""The short form of the siege, and requests of any kind that hypothesis can think of."""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Iterator

import pytest
from hostile import repository
from hostile.forgeries import forgery
from hostile.raids import RAIDS
from hostile.siege import SLACK, grew, judged, rise, sent, siege
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import ServerProcess

CALLS = 2000


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that was started with room for no more than a few hundred connections, as a shell may have it."""
    folder = tmp_path_factory.mktemp(f"siege-{transport}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        with ServerProcess(repository.write(folder / "models"), folder / "state", "--transport", transport) as running:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
            yield running
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_bad_calls_and_raids_hurt_nobody_else(server: ServerProcess, transport: str) -> None:
    strict = transport == "http2"
    report = asyncio.run(siege(server, CALLS, seed=2, samples=1, strict=strict))
    assert report.failures == []
    assert report.raids.keys() == (RAIDS.keys() if strict else set())
    assert report.refused > CALLS * 0.8
    assert report.good > 0


def test_any_calls_end_as_a_mistake_may(server: ServerProcess, transport: str) -> None:
    @given(chance=st.randoms(use_true_random=False), count=st.integers(1, 10))
    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    def check(chance: random.Random, count: int) -> None:
        forgeries = [forgery(chance) for _ in range(count)]
        outcomes = asyncio.run(sent(server.grpc, forgeries))
        problems = [
            judged(each, outcome, transport == "http2") for each, outcome in zip(forgeries, outcomes, strict=True)
        ]
        assert not any(problems), list(zip(problems, outcomes, strict=True))

    check()


@pytest.mark.parametrize("scatter", [0.0, 8.0])
def test_memory_that_grows_is_told_from_memory_that_comes_and_goes(scatter: float) -> None:
    chance = random.Random(5)
    level = [150 + scatter * chance.uniform(-1, 1) for _ in range(15)]
    growing = [size + 4 * SLACK * number / 14 for number, size in enumerate(level)]
    assert not grew(*rise(level))
    assert grew(*rise(growing))
