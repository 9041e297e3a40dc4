"""Strata: counts by share add up, and weighing by them undoes what thinning did to the mix of requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.serving.selection import position, selected
from gnomon_server.shadow.strata import Strata
from gnomon_server.wire.tallies import StratumTally

PAIR = Pair("m", 1, 2)
SHARES = st.sampled_from([1.0, 0.5, 0.25, 0.1])
PARTS = st.lists(
    st.builds(StratumTally, SHARES, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9).map(float), st.just(0)),
    max_size=6,
)


def test_a_share_that_changed_with_the_traffic_leaves_the_estimate_where_the_traffic_has_it() -> None:
    strata = Strata()
    # By night everything agrees and all is mirrored; by day nothing does and a quarter is.
    for hour, (share, agrees) in enumerate([(1.0, 1.0), (0.25, 0.0)]):
        for number in range(5000):
            if selected(position(f"{hour}-{number}", b""), share):
                strata.compared(share, np.array([agrees]))
    comparison = Comparison(PAIR, strata=strata.snapshot())
    night, day = comparison.strata
    assert (night.sample, night.compared, day.sample) == (1.0, 5000, 0.25)
    # Five standard deviations of a sample of a quarter of 5,000.
    assert comparison.agreement_of_traffic == pytest.approx(0.5, abs=0.03)
    assert night.agreement_sum / (night.compared + day.compared) > 0.75


def test_what_was_received_and_not_compared_counts_in_its_stratum() -> None:
    strata = Strata()
    strata.compared(0.5, np.array([1.0, 0.5]))
    strata.missed(0.5)
    strata.missed(1.0)
    assert strata.snapshot() == (StratumTally(1.0, 1, 0, 0.0, 0), StratumTally(0.5, 3, 2, 1.5, 1))


@given(PARTS, PARTS)
def test_parts_add_up_in_any_order(one: list[StratumTally], other: list[StratumTally]) -> None:
    first, second = Comparison(PAIR, strata=tuple(one)), Comparison(PAIR, strata=tuple(other))
    total = first.plus(second)
    assert total == second.plus(first)
    assert sum(s.compared for s in total.strata) == sum(s.compared for s in (*one, *other))
    assert len({s.sample for s in total.strata}) == len(total.strata)


def test_without_a_comparison_nothing_disagrees() -> None:
    assert Comparison(PAIR).agreement_of_traffic == 1.0
