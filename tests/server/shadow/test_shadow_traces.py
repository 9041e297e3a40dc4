"""Which mirrored requests get a span, where more are worth one than can be afforded."""

from __future__ import annotations

from server.shadow.fakes import added

from gnomon_server.shadow.outcome import SHADOW_ERROR, Uncompared
from gnomon_server.shadow.traces import BURST, KEPT_SAMPLED, Traces


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def failed(count: int, sampled: bool = False) -> Uncompared:
    return Uncompared([added(sampled=sampled) for _ in range(count)], SHADOW_ERROR, 1, 2)


def test_a_shadow_that_is_always_wrong_gets_a_burst_of_traces_and_then_so_many_a_second() -> None:
    clock = Clock()
    traces = Traces("adder", 2, 20.0, clock)
    traces.settle(failed(2 * BURST))
    assert (len(traces.take()), traces.dropped) == (BURST, BURST)
    for _ in range(4):
        clock.now += 0.5
        traces.settle(failed(100))
        assert len(traces.take()) == 10
    assert traces.dropped == BURST + 4 * 90


def test_an_allowance_that_was_not_used_grows_to_a_burst_and_no_further() -> None:
    clock = Clock()
    traces = Traces("adder", 2, 20.0, clock)
    traces.settle(failed(BURST + 1))
    traces.take()
    clock.now += 3600
    traces.settle(failed(2 * BURST))
    assert len(traces.take()) == BURST


def test_a_sampled_request_is_traced_when_the_allowance_of_wrong_ones_is_used_up() -> None:
    traces = Traces("adder", 2, 0.0, Clock())
    traces.settle(failed(BURST + 7))
    traces.settle(failed(3, sampled=True))
    assert [trace.unsampled for trace in traces.take()[-4:]] == [True, False, False, False]


def test_sampled_requests_have_a_bound_in_each_report() -> None:
    traces = Traces("adder", 2, 0.0, Clock())
    traces.settle(failed(BURST))
    for _ in range(2):
        traces.settle(failed(KEPT_SAMPLED + 5, sampled=True))
        assert sum(not trace.unsampled for trace in traces.take()) == KEPT_SAMPLED
    assert traces.dropped == 10
