from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.statistics.segments import Segment, Values, _hypergeometric, search, shares

LEVEL = 0.001


def traffic(seed: int, rows: int = 8_000) -> tuple[np.random.Generator, dict[str, Values]]:
    generator = np.random.default_rng(seed)
    numbers = {f"x[{i}]": generator.normal(size=rows) for i in range(6)}
    carriers = generator.choice(np.array(["AA", "UA", "HA", "DL"], object), rows, p=[0.4, 0.3, 0.1, 0.2])
    return generator, {**numbers, "carrier": carriers, "distance": generator.uniform(0, 4000, rows)}


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_segment_is_named_first(seed: int) -> None:
    generator, features = traffic(seed)
    planted = (features["carrier"] == "HA") & (features["distance"] >= 1830)
    differ = (generator.random(8_000) < 0.005) | planted
    found = search(features, differ, generator.random(8_000) < 0.5, LEVEL)
    assert found
    assert found[0].conditions[0] == "carrier = 'HA'"
    assert found[0].conditions[1].startswith("distance >= ")
    # The limit is found although no decile falls on it.
    both = np.count_nonzero(found[0].rows & planted)
    assert both / np.count_nonzero(found[0].rows | planted) > 0.9
    held = shares(found[0], differ, np.ones(8_000))
    assert 0.04 < held.rows < 0.07
    assert held.differing > 0.7
    assert held.rate > 0.8
    assert held.rate_outside < 0.1


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_named_where_the_disagreement_is_spread_evenly(seed: int) -> None:
    generator, features = traffic(seed)
    assert search(features, generator.random(8_000) < 0.05, generator.random(8_000) < 0.5, LEVEL) == []


def planted(features: dict[str, Values], inside: np.ndarray) -> list[Segment]:
    generator = np.random.default_rng(5)
    differ = inside | (generator.random(len(inside)) < 0.002)
    return search(features, differ, generator.random(len(inside)) < 0.5, LEVEL)


def test_conditions_are_said_as_people_say_them() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=6000)
    x[generator.random(6000) < 0.1] = np.nan
    flag = generator.integers(0, 2, 6000).astype(np.float64)
    features: dict[str, Values] = {"x": x, "flag": flag}
    assert planted(features, np.isnan(x))[0].conditions == ("x is missing",)
    assert planted(features, x < -1.5)[0].conditions[0].startswith("x < -1.")
    (middle,) = planted(features, (x > -0.1) & (x < 0.1))[0].conditions
    assert " <= x < " in middle
    both = planted(features, (flag == 1) & (x > 1))[0].conditions
    assert "flag = 1" in both
    assert any(one.startswith("x >= ") for one in both)


def test_a_second_segment_is_sought_among_the_other_rows() -> None:
    generator = np.random.default_rng(2)
    carrier = generator.choice(np.array(["AA", "UA", "HA", "DL"], object), 8000)
    x = generator.normal(size=8000)
    found = planted({"carrier": carrier, "x": x}, (carrier == "HA") | ((carrier != "HA") & (x > 2)))
    assert [segment.conditions[0] for segment in found][:1] == ["carrier = 'HA'"]
    assert found[1].conditions[0].startswith("x >= ")


@pytest.mark.parametrize(
    ("features", "rows"),
    [({}, 100), ({"x": np.zeros(0)}, 0), ({"x": np.zeros(500)}, 500), ({"x": np.full(500, np.nan)}, 500)],
)
def test_inputs_that_say_nothing_name_nothing(features: dict[str, Values], rows: int) -> None:
    differ = np.arange(rows) % 7 == 0
    assert search(features, differ, np.arange(rows) % 2 == 0, LEVEL) == []


def test_where_everything_differs_nothing_stands_out() -> None:
    generator, features = traffic(0, 2_000)
    assert search(features, np.ones(2_000, np.bool_), generator.random(2_000) < 0.5, LEVEL) == []


@given(st.integers(0, 40), st.data())
def test_chance_is_the_hypergeometric_one(total: int, data: st.DataObject) -> None:
    hits, drawn = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    least = data.draw(st.integers(0, min(hits, drawn)))
    ways = sum(comb(hits, x) * comb(total - hits, drawn - x) for x in range(least, min(hits, drawn) + 1))
    assert _hypergeometric(total, hits, drawn, least) == pytest.approx(ways / comb(total, drawn))
