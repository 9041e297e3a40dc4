from __future__ import annotations

from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon_server.statistics.evidence import log_lo, log_up
from gnomon_server.statistics.knots import BERN
from gnomon_server.statistics.quantiles import interval, quantile

ALPHA = 0.05


def bucketed(values: list[int]) -> list[tuple[int, int]]:
    return sorted(Counter(values).items())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_a_quantile_is_the_first_bucket_with_enough_values_up_to_it(values: list[int], p: float) -> None:
    found = quantile(bucketed(values), p)
    assert sum(value <= found for value in values) >= p * len(values) - 1e-9
    assert sum(value < found for value in values) < p * len(values) + 1e-9


@settings(max_examples=50)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=400), st.sampled_from([0.5, 0.9, 0.99]))
def test_bounds_are_where_the_evidence_says(values: list[int], p: float) -> None:
    buckets, n = bucketed(values), len(values)

    def counts(above: int) -> np.ndarray:
        return np.array([n - above, above], np.float64)

    def over(bucket: int) -> int:
        return sum(value > bucket for value in values)

    filled = [bucket for bucket, _ in buckets]
    enough = log(1 / ALPHA)
    above = [b for b in filled if log_up(BERN, counts(over(b)), 1 - p) >= enough]
    below = [b for b in filled if log_lo(BERN, counts(sum(v >= b for v in values)), 1 - p) >= enough]
    assert interval(buckets, p, ALPHA) == (max(below, default=None), min(above, default=None))


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_bounds_hold_at_all_times_at_once(p: float) -> None:
    # Uniform on 0..999: the quantile lies in bucket 1000 p - 1.
    truth, misses, runs = round(1000 * p) - 1, 0, 200
    for seed in range(runs):
        values = np.random.default_rng(seed).integers(0, 1000, 3000)
        for n in range(100, 3001, 200):
            low, high = interval(bucketed(values[:n].tolist()), p, ALPHA)
            if (low is not None and low > truth) or (high is not None and high < truth):
                misses += 1
                break
    # Each side may miss in 5 % of the runs; what is seen is far from the 27 of 200 that would be odd (p < .01).
    assert misses <= 27


def test_more_values_give_narrower_bounds() -> None:
    widths = []
    for n in (200, 2_000, 20_000):
        low, high = interval([(bucket, n // 100) for bucket in range(100)], 0.5, ALPHA)
        assert low is not None
        assert high is not None
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_few_values_bound_no_tail() -> None:
    assert interval([(1, 20), (5, 1)], 0.99, ALPHA)[1] is None
