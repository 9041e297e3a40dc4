from __future__ import annotations

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.control.totals import added
from gnomon_server.wire.counts import CallCount, FeedCount, HistogramCounts, InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, CALL_BOUNDS, DURATION_BOUNDS, Histogram
from gnomon_server.wire.messages import FrontendReport
from gnomon_server.wire.traces import CallTrace

EMPTY = FrontendReport((), (), (), (), 0, 0)


def counted(bounds: tuple[float, ...], times: int) -> HistogramCounts:
    histogram = Histogram(bounds)
    histogram.add(0.25, times)
    return histogram.snapshot()


def call(times: int, method: str = "Infer", status: str = "OK") -> CallCount:
    return CallCount(method, status, counted(CALL_BOUNDS, times))


def inference(times: int, version: int = 1, role: str = "primary", error: str = "") -> InferenceCount:
    durations = counted(DURATION_BOUNDS, times)
    return InferenceCount("m", version, role, error, durations, durations, counted(BATCH_BOUNDS, times))


def report(*parts: CallCount | InferenceCount, dropped: int = 0, in_flight: int = 0) -> FrontendReport:
    calls = tuple(part for part in parts if isinstance(part, CallCount))
    inferences = tuple(part for part in parts if isinstance(part, InferenceCount))
    return FrontendReport(calls, inferences, (), (), dropped, in_flight)


def test_counts_of_one_method_and_status_add_up_and_others_stay_apart() -> None:
    total = added(report(call(3), call(1, status="INTERNAL")), report(call(4), call(2, method="Live")))
    assert {(c.method, c.status): sum(c.durations.counts) for c in total.calls} == {
        ("Infer", "OK"): 7,
        ("Infer", "INTERNAL"): 1,
        ("Live", "OK"): 2,
    }
    assert next(c for c in total.calls if c.status == "OK").durations.total == 7 * 0.25


def test_runs_stay_apart_by_version_role_and_error() -> None:
    parts = [inference(1), inference(2, version=2), inference(4, role="previous"), inference(8, error="INTERNAL")]
    total = added(report(*parts), report(*parts))
    assert total.inferences == tuple(
        inference(2 * n, *key)
        for n, key in (
            (1, (1, "primary", "")),
            (2, (2, "primary", "")),
            (4, (1, "previous", "")),
            (8, (1, "primary", "INTERNAL")),
        )
    )


def test_what_is_counted_elsewhere_is_left_out() -> None:
    trace = CallTrace("Infer", "OK", b"x" * 16, 1, 0, "", 1, 2, "")
    full = FrontendReport((), (), (FeedCount("m", 1, 2, "e", "s", 5, 0, 0),), (trace,), 3, 2)
    assert added(full, full) == FrontendReport((), (), (), (), 6, 4)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["OK", "INTERNAL"])), max_size=6))
def test_the_order_of_frontends_does_not_matter(parts: list[tuple[int, str]]) -> None:
    reports = [report(call(times, status=status), dropped=times, in_flight=1) for times, status in parts]
    forwards, backwards = (reduce(added, order, EMPTY) for order in (reports, reports[::-1]))
    assert sorted(forwards.calls, key=repr) == sorted(backwards.calls, key=repr)
    assert (forwards.traces_dropped, forwards.in_flight) == (backwards.traces_dropped, backwards.in_flight)
