"""Guarding: what it reads of frontends and of the machine, what the fleet is told, and what it remembers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gnomon_server.control.guarding import ENOUGH, Guarding, tail
from gnomon_server.control.pressure import Pressure
from gnomon_server.settings import GuardSettings
from gnomon_server.wire.counts import InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, DURATION_BOUNDS, Histogram, empty
from gnomon_server.wire.messages import FrontendReport


class Frontends:
    """A fleet of which a test says what it has counted."""

    def __init__(self) -> None:
        self._durations = {"m": Histogram(DURATION_BOUNDS), "n": Histogram(DURATION_BOUNDS)}
        self.factors: Mapping[str, float] = {}

    def answer(self, model: str, seconds: float, times: int = ENOUGH) -> None:
        self._durations[model].add(seconds, times)

    @property
    def counts(self) -> FrontendReport:
        inferences = tuple(
            InferenceCount(model, 1, "primary", "", h.snapshot(), empty(DURATION_BOUNDS), empty(BATCH_BOUNDS))
            for model, h in self._durations.items()
        )
        return FrontendReport((), inferences, (), (), 0, 0)

    def thin(self, factors: Mapping[str, float]) -> None:
        self.factors = factors


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def frontends() -> Frontends:
    return Frontends()


def guarding(frontends: Frontends, settings: GuardSettings, pressure: float | None = None) -> Guarding:
    return Guarding(settings, frontends, lambda: pressure, Clock())


async def test_a_model_that_has_become_slow_is_thinned_and_its_neighbour_is_not(frontends: Frontends) -> None:
    guard = guarding(frontends, GuardSettings(latency=0.005, recovery=3.0))
    frontends.answer("m", 0.001)
    await guard.look()
    assert frontends.factors == {}
    for factor in (0.5, 0.25):
        frontends.answer("m", 0.02)
        frontends.answer("n", 0.001)
        await guard.look()
        assert frontends.factors == {"m": factor}
    (thinning,) = guard.thinnings("m")
    assert (thinning.until, thinning.factor, thinning.cause) == (None, 0.25, "latency")
    assert guard.thinnings("n") == []
    assert (guard.factor("m"), guard.factor("n")) == (0.25, 1.0)
    (kept,) = guard.news()
    assert kept.until is not None
    assert kept.since == thinning.since
    # Calm again: it comes back step by step, and what happened is remembered.
    for _ in range(9):
        frontends.answer("m", 0.001)
        await guard.look()
    assert frontends.factors == {}
    (thinning,) = guard.thinnings("m")
    assert thinning.until is not None
    assert thinning.until >= thinning.since
    assert thinning.factor == 0.25
    guard.told(guard.news())
    assert guard.news() == []


async def test_the_latency_of_long_ago_and_that_of_a_few_requests_count_for_nothing(frontends: Frontends) -> None:
    guard = guarding(frontends, GuardSettings(latency=0.005, recovery=3.0))
    frontends.answer("m", 1.0, 1000)
    await guard.look()
    frontends.answer("m", 1.0, ENOUGH - 1)
    await guard.look()
    frontends.answer("m", 0.001, 1000)
    await guard.look()
    assert frontends.factors == {}


async def test_requests_that_gather_thin_their_model(frontends: Frontends) -> None:
    guard = guarding(frontends, GuardSettings(queue=10))
    await guard.look()
    # Within one second of the clock, 22 requests that took half a second each: 11 were there at once on average.
    frontends.answer("m", 0.5, 22)
    frontends.answer("n", 0.5, 18)
    await guard.look()
    assert frontends.factors == {"m": 0.5}
    assert [one.cause for one in guard.thinnings("m")] == ["queue"]


@pytest.mark.parametrize(("pressure", "factors"), [(0.7, {"m": 0.5, "n": 0.5}), (0.3, {}), (None, {})])
async def test_pressure_on_the_processors_thins_where_it_can_be_read(
    frontends: Frontends, pressure: float | None, factors: Mapping[str, float]
) -> None:
    guard = guarding(frontends, GuardSettings(pressure=0.5), pressure)
    await guard.look()
    assert frontends.factors == factors


@pytest.mark.parametrize(
    ("seconds", "bounds"), [(0.003, (0.0025, 0.005)), (0.000001, (0.0, 0.00001)), (100.0, (30.0, float("inf")))]
)
def test_the_tail_is_known_up_to_its_bucket(seconds: float, bounds: tuple[float, float]) -> None:
    histogram = Histogram(DURATION_BOUNDS)
    histogram.add(seconds, 2)
    histogram.add(min(seconds, 0.0001), 98)
    assert tail(histogram.snapshot().counts) == bounds


def test_pressure_is_the_share_of_waiting_between_two_looks(tmp_path: Path) -> None:
    file = tmp_path / "cpu"
    pressure = Pressure(file, Clock())
    assert pressure.read() is None
    shares = []
    for total in (1_000_000, 1_250_000, 9_000_000):
        file.write_text(f"some avg10=11.85 avg60=10.88 avg300=29.00 total={total}\nfull avg10=0.00 total=0\n")
        shares.append(pressure.read())
    assert shares == [None, 0.25, 1.0]
    file.write_text("nothing of the kind")
    assert pressure.read() is None
