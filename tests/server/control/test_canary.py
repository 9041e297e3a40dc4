"""The judgement on a canary: certain where it speaks, and silent where chance would do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.control.canary import failure
from gnomon_server.control.trial import Side
from gnomon_server.settings import CanarySettings

LIMITS = CanarySettings(errors=0.01, latency=0.1, latency_excess=0.02)
HEALTHY = Side(1000, 0, 0)


def test_a_canary_that_fails_on_its_first_requests_is_taken_back_with_the_counts() -> None:
    found = failure(HEALTHY, Side(50, 50, 0), LIMITS)
    assert found.startswith("fails on 50 of 50 requests, and the primary on 0 of 1,000: at least ")
    assert found.endswith(" % more, where 1 % are allowed")


def test_a_canary_that_is_slow_is_taken_back_with_the_limit() -> None:
    found = failure(HEALTHY, Side(500, 0, 200), LIMITS)
    assert found.startswith("takes longer than 0.1 s on 200 of 500 requests, and the primary on 0 of 1,000: at least ")


@pytest.mark.parametrize(
    ("primary", "canary"),
    [
        (HEALTHY, Side(1, 1, 1)),
        (HEALTHY, Side(0, 0, 0)),
        (Side(0, 0, 0), Side(1000, 1000, 0)),
        (Side(1000, 500, 0), Side(1000, 500, 0)),
        (HEALTHY, Side(1000, 8, 0)),
    ],
    ids=["one request", "none", "nothing to compare with", "as bad as the primary", "within the limit"],
)
def test_what_is_not_certain_takes_nothing_back(primary: Side, canary: Side) -> None:
    assert failure(primary, canary, LIMITS) == ""


def test_limits_of_nothing_judge_nothing() -> None:
    assert failure(HEALTHY, Side(500, 500, 500), CanarySettings(errors=0.0)) == ""
    assert failure(HEALTHY, Side(500, 500, 0), CanarySettings(errors=0.0, latency=0.1)) == ""


SIDES = st.integers(1, 5000).flatmap(lambda n: st.builds(Side, st.just(n), st.integers(0, n), st.integers(0, n)))


@given(SIDES, SIDES, st.integers(1, 100))
def test_a_worse_canary_is_not_kept_where_a_better_one_is_taken_back(primary: Side, canary: Side, more: int) -> None:
    worse = Side(canary.requests + more, canary.failed + more, canary.slow + more)
    if failure(primary, canary, LIMITS):
        assert failure(primary, worse, LIMITS)
    if canary.failed * primary.requests <= primary.failed * canary.requests and canary.slow == 0:
        assert failure(primary, canary, LIMITS) == ""


def test_canaries_that_keep_their_limit_are_hardly_ever_taken_back_however_often_one_looks() -> None:
    chance = np.random.default_rng(7)
    taken = 0
    for _ in range(100):
        # As bad as is allowed: the primary fails on 2 %, the canary on 3 %.
        primary, canary = (chance.random(4000) < rate for rate in (0.02, 0.03))
        looks = range(50, 4000, 50)
        taken += any(
            failure(Side(n, int(primary[:n].sum())), Side(n // 4, int(canary[: n // 4].sum())), LIMITS) for n in looks
        )
    assert taken <= 3
