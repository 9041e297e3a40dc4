"""A soak tells memory that is flat from memory that grows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from soak import FLAT, trend

MINUTES = 10
SECONDS = [float(second) for second in range(0, MINUTES * 60, 15)]


@given(level=st.floats(1e7, 1e9), noise=st.floats(0, 0.01), seed=st.integers(0, 9))
def test_noise_around_a_level_is_flat(level: float, noise: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = [level * (1 + noise * random.uniform(-1, 1)) for _ in SECONDS]
    assert abs(trend(SECONDS, sizes).growth(SECONDS[-1])) < FLAT


@given(level=st.floats(1e7, 1e9), share=st.floats(0.06, 3))
def test_a_steady_leak_is_found_with_its_rate(level: float, share: float) -> None:
    sizes = [level * (1 + share * second / SECONDS[-1]) for second in SECONDS]
    found = trend(SECONDS, sizes)
    assert found.slope == pytest.approx(level * share / SECONDS[-1], rel=1e-6)
    assert found.growth(SECONDS[-1]) == pytest.approx(share * level / found.level, rel=1e-6)


def test_a_rise_while_it_warms_up_does_not_count() -> None:
    sizes = [1e8 * min(1.0, 0.5 + second / 300) for second in SECONDS]
    assert trend(SECONDS, sizes).growth(SECONDS[-1]) == pytest.approx(0, abs=1e-9)
