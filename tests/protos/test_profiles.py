from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_protos.profile_pb2 import Feature, Profile, Ranges, Texts, Values
from gnomon_protos.profiles import EXTRA, Counter, Counts, bins, columns
from gnomon_protos.tensors import FIXED, Array

AGE = Feature(name="age", tensor="age", ranges=Ranges(edges=[20, 30, 40], low=18, high=65))
STOPS = Feature(name="stops", tensor="stops", values=Values(values=[0, 1, 3]))
CITY = Feature(name="city", tensor="city", texts=Texts(listed=["Rome", "Oslo"], others=["Bonn"]))
OPEN = Feature(name="name", tensor="city", texts=Texts(listed=["Rome"], open=True))
CLASS = Feature(name="label", tensor="label", output=True, values=Values(values=[0, 1]))
PROFILE = Profile(features=[AGE, STOPS, CITY, OPEN, CLASS])
NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def table(*values: object, dtype: Any = np.float64) -> Array:
    array: Array = np.array(values, dtype)[:, np.newaxis]
    return array


def counted(counts: list[Counts]) -> list[list[int]]:
    return [part.tolist() for part in counts]


def test_each_value_falls_into_the_bin_that_its_feature_has_for_it() -> None:
    counter = Counter(PROFILE)
    inputs = {
        "age": table(18, 20, 20.5, 41, 65, 66, 17, np.nan, np.inf),
        "stops": table(0, 1, 3, 2, -1, 3, np.nan, np.inf, -np.inf),
        "city": table("Rome", "Oslo", "Bonn", "Bern", "", "Rome", "Rome", "Oslo", "Köln", dtype=object),
    }
    outputs = {"label": table(0, 1, 1, 1, 0, 2, 0, 0, 0, dtype=np.int64)}
    found = counter.split(counter.count(inputs, outputs, 9))
    assert counted(found) == [
        # Up to 20, 30, 40, above; missing, novel.
        [2, 1, 0, 2, 1, 3],
        [1, 1, 2, 1, 4],
        # Rome, Oslo, others; missing, novel.
        [3, 2, 1, 1, 2],
        [3, 5, 1, 0],
        [5, 3, 0, 1],
    ]


def test_an_input_that_is_left_out_is_missing_in_every_row() -> None:
    counter = Counter(PROFILE)
    found = counter.split(counter.count({}, {"label": table(*[0] * 7)}, 7))
    assert [part[-EXTRA] for part in found] == [7, 7, 7, 7, 0]
    assert sum(int(part.sum()) for part in found) == 35


def test_an_output_that_nobody_asked_for_is_not_counted() -> None:
    counter = Counter(PROFILE)
    *inputs, label = counter.split(counter.count({}, {}, 7))
    assert [int(part.sum()) for part in inputs] == [7, 7, 7, 7]
    assert label.tolist() == [0, 0, 0, 0]


def test_a_tensor_of_another_kind_or_width_is_missing() -> None:
    counter = Counter(Profile(features=[Feature(name="x[3]", tensor="x", column=3, values=Values(values=[1])), CITY]))
    inputs = {"x": np.ones((2, 2)), "city": table(1.0, 2.0)}
    assert counted(counter.split(counter.count(inputs, {}, 2))) == [[0, 2, 0], [0, 0, 0, 0, 2]]


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from(["Rome", "Oslo", "Bonn", "", "x" * 99])), max_size=50))
def test_every_row_is_in_exactly_one_bin_and_portions_add_up(rows: list[tuple[float, float, str]]) -> None:
    counter = Counter(PROFILE)
    ages, stops, cities = (list(side) for side in zip(*rows, strict=True)) if rows else ([], [], [])
    inputs = {
        "age": table(*ages, dtype=np.float32).reshape(-1, 1),
        "stops": table(*stops, dtype=np.float32).reshape(-1, 1),
        "city": table(*cities, dtype=object).reshape(-1, 1),
    }
    outputs = {"label": table(*[0] * len(rows)).reshape(-1, 1)}
    whole = counter.count(inputs, outputs, len(rows))
    assert all(int(part.sum()) == len(rows) for part in counter.split(whole))
    parts = []
    for side in (slice(0, 7), slice(7, None)):
        given, answered = ({name: array[side] for name, array in tables.items()} for tables in (inputs, outputs))
        parts.append(counter.count(given, answered, len(rows[side])))
    assert np.array_equal(whole, parts[0] + parts[1])


@given(NUMBERS)
def test_a_number_is_counted_as_a_bin_by_bin_search_would(value: float) -> None:
    counter = Counter(Profile(features=[AGE, STOPS]))
    value = float(np.float32(value))
    inputs = {"age": table(value), "stops": table(value)}
    age, stops = counter.split(counter.count(inputs, {}, 1))
    if np.isnan(value):
        expected = (4, 3)
    else:
        inside = 18 <= value <= 65
        expected = (
            int(np.searchsorted([20, 30, 40], value)) if inside else 5,
            [0, 1, 3].index(int(value)) if value in (0, 1, 3) else 4,
        )
    assert (int(age.argmax()), int(stops.argmax())) == expected


def test_a_profile_without_features_counts_nothing() -> None:
    counter = Counter(Profile())
    assert counter.size == 0
    assert counter.split(counter.count({}, {}, 3)) == []
    assert bins(CITY) == 5


@pytest.mark.parametrize(
    ("shape", "rowwise", "expected"),
    [
        ((2, 3, 4), True, (2, 12)),
        ((2, 3), False, (1, 6)),
        ((), True, (1, 1)),
        ((0, 3), True, (0, 3)),
        ((4,), True, (4, 1)),
    ],
)
def test_a_tensor_is_rows_by_columns(shape: tuple[int, ...], rowwise: bool, expected: tuple[int, int]) -> None:
    assert columns(np.zeros(shape, np.float32), rowwise=rowwise).shape == expected


def test_bfloat16_is_counted_by_its_numbers() -> None:
    counter = Counter(Profile(features=[STOPS]))
    values = columns(np.array([0, 1, 3, 5], np.float32).astype(FIXED["BF16"]))
    assert counter.count({"stops": values}, {}, 4).tolist() == [1, 1, 1, 0, 1]
