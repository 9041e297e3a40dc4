from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
import pytest

from gnomon_server.control import latencies, repetitions
from gnomon_server.statistics.knots import SYM64
from gnomon_server.wire.counts import SketchCounts
from gnomon_server.wire.sketch import EMPTY, Sketch
from gnomon_server.wire.tallies import RepeatedOutput, RepeatTally


def times(*nanoseconds: int, each: int = 1) -> SketchCounts:
    counted = Sketch()
    counted.add(np.array(nanoseconds), each)
    return counted.snapshot()


def tally(own: Sequence[float], shadow: Sequence[float], rows: int = 10) -> RepeatTally:
    """Returns a tally of requests by the share of rows that agree."""
    excess = SYM64.counts((1 + np.array(own) - np.array(shadow)) / 2)
    output = RepeatedOutput("p", rows, 0.1 * rows, 0.3 * rows)
    disagreeing = sum(share < 1 for share in own)
    durations = times(*[1000] * len(own)), times(*[3000] * len(own))
    return RepeatTally(len(own), disagreeing, sum(own), sum(shadow), tuple(excess.tolist()), (output,), *durations)


def test_a_primary_that_disagrees_with_itself_is_named() -> None:
    found = repetitions.report(tally([1, 0] * 500, [1, 0] * 490 + [0, 0] * 10), times(1000))
    assert found is not None
    assert (found.requests, found.own_disagreeing, found.own_agreement) == (1000, 500, 0.5)
    assert found.excess.estimate == pytest.approx(0.01)
    assert found.excess.low < 0.01 < found.excess.high < 0.05
    assert found.note.startswith("the primary is not deterministic: it disagrees with itself in 500 of 1,000 requests")
    assert "of the shadow's disagreement of 51.00 % on them, 1.00 % are beyond that" in found.note


def test_a_primary_that_agrees_with_itself_is_not_named() -> None:
    found = repetitions.report(tally([1] * 1000, [1] * 900 + [0] * 100), times(1000))
    assert found is not None
    assert found.note == ""
    assert found.excess.low > 0.05
    assert found.shadow_agreement == 0.9


def test_nothing_is_said_before_anything_was_repeated() -> None:
    assert repetitions.report(RepeatTally(), EMPTY) is None
    assert repetitions.divergences(RepeatTally(), "p") == (0, 0)


def test_tallies_add_up() -> None:
    one, other = tally([1, 0], [1, 1]), tally([0.5], [0], rows=5)
    both = repetitions.merge(one, other)
    assert (both.requests, both.own_disagreeing, both.own_agreement_sum) == (3, 2, 1.5)
    assert sum(both.excess) == pytest.approx(3)
    assert both.outputs == (RepeatedOutput("p", 15, 1.5, 4.5),)
    assert repetitions.divergences(both, "p") == pytest.approx((0.1, 0.3))
    assert both.own_times.count == 3
    assert repetitions.merge(one, RepeatTally()) == repetitions.merge(RepeatTally(), one) == one


def test_a_latency_has_bounds_once_there_is_enough_of_it() -> None:
    few = latencies.latency(times(1_000_000, 2_000_000), 0.025)
    assert few.count == 2
    assert few.mean == pytest.approx(0.0015)
    assert (few.p50_low, few.p50_high) == (0, inf)
    many = latencies.latency(times(*range(1_000_000, 2_000_000, 1000), each=20), 0.025)
    assert 0.00145 < many.p50_low < 0.0015 < many.p50_high < 0.00155
    assert many.p50 == pytest.approx(0.0015, rel=0.012)
    assert many.p99 == pytest.approx(0.00199, rel=0.012)
    assert many.p99_low < 0.00199 < many.p99_high
    assert latencies.latency(EMPTY, 0.025).count == 0


def test_a_shadow_takes_as_a_primary_what_its_primary_takes_by_their_ratio_alone() -> None:
    # In the worker everything takes four times as long; there, the shadow takes three times as long as the primary.
    spread = np.arange(900, 1100)
    frontend, own, shadow = (times(*(spread * factor).tolist(), each=10) for factor in (1000, 4000, 12000))
    found = latencies.transferred(frontend, own, shadow, 0.025)
    assert found.count == 2000
    assert found.mean == pytest.approx(3 * 0.0009995)
    assert found.p50 == pytest.approx(0.003, rel=0.03)
    assert found.p50_low < 0.003 < found.p50_high < 0.0036
    assert found.p99_low < 3 * 0.001098 < found.p99_high


def test_what_was_not_measured_says_nothing_of_a_shadow_as_a_primary() -> None:
    assert latencies.transferred(times(5), EMPTY, EMPTY, 0.025).count == 0
    assert latencies.transferred(times(5, each=100), times(6), times(7), 0.025).count == 0
