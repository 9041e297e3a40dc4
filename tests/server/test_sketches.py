from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.wire.sketch import EMPTY, Sketch, edge, merge

durations = st.lists(st.integers(1, 10**12), max_size=20)


def sketch(nanoseconds: list[int]) -> Sketch:
    counted = Sketch()
    counted.add(np.array(nanoseconds, np.int64))
    return counted


@given(st.integers(1, 3 * 10**13))
def test_a_bucket_holds_what_its_edges_say_to_one_percent(nanoseconds: int) -> None:
    ((bucket, count),) = sketch([nanoseconds]).snapshot().buckets
    assert count == 1
    assert edge(bucket - 1) * (1 - 1e-12) <= nanoseconds / 1e9 <= edge(bucket) * (1 + 1e-12)
    assert edge(bucket) / edge(bucket - 1) < 1.011


@given(durations, durations)
def test_sketches_merge_into_the_sketch_of_all(some: list[int], others: list[int]) -> None:
    merged = merge((sketch(some).snapshot(), EMPTY, sketch(others).snapshot()))
    together = sketch([*some, *others]).snapshot()
    assert merged.buckets == together.buckets
    assert merged.count == len(some) + len(others)
    assert merged.total == pytest.approx(together.total)


def test_what_is_out_of_range_is_in_the_first_and_the_last_bucket() -> None:
    found = sketch([-5, 0, 10**17]).snapshot()
    assert [count for _, count in found.buckets] == [2, 1]


def test_one_duration_may_stand_for_many() -> None:
    counted = Sketch()
    counted.add(np.array([500]), 7)
    assert counted.snapshot().count == 7
    assert counted.snapshot().total == pytest.approx(3.5e-6)
