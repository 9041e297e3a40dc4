"""Shrinking: what is left diverges, and less of it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.shadow.shrinking import differing, mixed, shrink, typical

CLAUSES = st.lists(st.sets(st.integers(0, 19), min_size=1, max_size=5), min_size=1, max_size=4)


class Fault:
    """Diverges where all features of a clause are there, and none that hides it."""

    def __init__(self, clauses: Sequence[set[int]], hidden_by: set[int]) -> None:
        self.clauses, self.hidden_by = clauses, hidden_by
        self.tried = 0

    def diverges(self, features: Sequence[int]) -> bool:
        there = set(features)
        # What hides it does so only in part: all together diverge.
        return any(clause <= there for clause in self.clauses) and (len(there) == 20 or not there & self.hidden_by)

    def first(self, sets: Sequence[tuple[int, ...]]) -> int | None:
        self.tried += len(sets)
        return next((number for number, one in enumerate(sets) if self.diverges(one)), None)


@given(CLAUSES, st.sets(st.integers(0, 19), max_size=3), st.sampled_from([0, 10, 100, 4096]))
def test_what_is_left_diverges_and_nothing_smaller_by_one_does(
    clauses: list[set[int]], hidden_by: set[int], most: int
) -> None:
    fault = Fault(clauses, hidden_by)
    found = shrink(range(20), fault.first, most)
    assert fault.diverges(found.features)
    assert fault.tried <= most
    assert found == shrink(range(20), fault.first, most)
    if found.minimal:
        for feature in found.features:
            assert not fault.diverges([one for one in found.features if one != feature])
    if most == 4096:
        assert found.minimal


@given(st.sets(st.integers(0, 299), min_size=1, max_size=6))
def test_one_fault_is_found_exactly_also_among_many_features(clause: set[int]) -> None:
    found = shrink(range(300), Fault([clause], set()).first, 4096)
    assert found.minimal
    assert set(found.features) == clause


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([5.0, np.nan, 1.0, 2.0, 9.0], np.float32), 2.0),
        (np.array([np.nan, np.nan]), np.nan),
        (np.array([4, 1, 3]), 3),
        (np.array(["b", "a", "b", "c"], object), "b"),
        (np.array(["b", "a"], object), "a"),
        (np.array([True, False, True]), True),
    ],
)
def test_what_is_typical_occurs(values: Any, expected: object) -> None:
    (made,) = typical({"x": values})["x"]
    np.testing.assert_equal(made, expected)


def test_a_mixture_takes_the_features_of_a_set_through_all_inputs() -> None:
    base = {"x": np.zeros((1, 2, 2), np.float32), "s": np.array(["a"], object)}
    row = {"x": np.array([[[1, 2], [np.nan, 0]]], np.float32), "s": np.array(["b"], object)}
    assert np.flatnonzero(differing(base, row)).tolist() == [0, 1, 2, 4]
    assert not differing(row, row).any()
    made = mixed(base, row, [(), (1, 4)])
    assert made["x"].tolist() == [[[0, 0], [0, 0]], [[0, 2], [0, 0]]]
    assert made["s"].tolist() == ["a", "b"]
    assert [array.dtype for array in made.values()] == [array.dtype for array in base.values()]
