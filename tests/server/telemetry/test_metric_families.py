"""The snapshot as named series."""

from __future__ import annotations

import re

import telemetry_samples as samples

from gnomon_server.telemetry import Snapshot, families
from gnomon_server.telemetry.families import Family, Point
from gnomon_server.wire.counts import CallCount, HistogramCounts
from gnomon_server.wire.histogram import CALL_BOUNDS, DIVERGENCE_BOUNDS, DURATION_BOUNDS


def family(name: str, snapshot: Snapshot | None = None) -> Family:
    (found,) = [one for one in families(snapshot or samples.snapshot()) if one.name == name]
    return found


def values(found: Family, *keys: str) -> dict[tuple[str, ...], float]:
    """Returns a number by attributes: the value, or a histogram's count."""
    return {tuple(dict(point.attributes).get(key, "") for key in keys): number(point) for point in found.points}


def number(point: Point) -> float:
    return sum(point.value.counts) if isinstance(point.value, HistogramCounts) else point.value


def test_calls_are_counted_by_status_and_only_failures_of_the_server_are_errors() -> None:
    found = family("rpc.server.call.duration")
    assert (found.kind, found.unit, tuple(found.bounds)) == ("histogram", "s", CALL_BOUNDS)
    assert values(found, "rpc.method", "rpc.response.status_code", "error.type") == {
        (samples.INFER, "OK", ""): 2,
        (samples.INFER, "NOT_FOUND", ""): 1,
        (samples.INFER, "INTERNAL", "INTERNAL"): 1,
    }
    assert {dict(point.attributes)["rpc.system.name"] for point in found.points} == {"grpc"}


def test_every_failed_request_that_reached_a_version_has_its_error() -> None:
    keys = ("gnomon.model.name", "gnomon.model.version", "gnomon.role", "error.type")
    counted = {("churn", "1", "primary", ""): 2, ("churn", "1", "primary", "INTERNAL"): 1}
    assert values(family("gnomon.inference.requests"), *keys) == counted
    assert values(family("gnomon.inference.duration"), *keys) == counted
    rows = family("gnomon.inference.batch.size").points[0].value
    assert isinstance(rows, HistogramCounts)
    assert rows.total == 9


def test_a_mirrored_request_is_shown_under_the_shadow_by_outcome() -> None:
    found = family("gnomon.mirror.requests")
    assert found.kind == "counter"
    assert values(found, "gnomon.model.name", "gnomon.model.version", "gnomon.outcome") == {
        ("churn", "2", "compared"): 5,
        ("churn", "2", "dropped"): 0,
        ("churn", "2", "not_comparable"): 0,
        ("churn", "2", "primary_error"): 0,
        ("churn", "2", "shadow_error"): 0,
        ("churn", "2", "timeout"): 1,
    }


def test_divergence_is_shown_by_output() -> None:
    found = family("gnomon.shadow.divergence")
    assert (found.unit, tuple(found.bounds)) == ("1", DIVERGENCE_BOUNDS)
    assert values(found, "gnomon.model.version", "gnomon.output") == {("2", "probabilities"): 5}
    assert values(family("gnomon.shadow.disagreements"), "gnomon.model.version") == {("2",): 1}
    assert values(family("gnomon.shadow.duration"), "gnomon.role") == {("shadow",): 5}


def test_states_are_1_for_what_holds_and_0_for_the_rest() -> None:
    assert values(family("gnomon.verdict"), "gnomon.model.version", "gnomon.state") == {
        ("2", "promote"): 0,
        ("2", "reject"): 0,
        ("2", "keep watching"): 1,
    }
    states = values(family("gnomon.model.state"), "gnomon.model.version", "gnomon.state")
    assert [key for key, value in states.items() if value] == [("1", "ready"), ("2", "loading")]
    assert len(states) == 8
    assert values(family("gnomon.delivery.state"), "gnomon.model.version", "gnomon.state") == {
        ("2", "running"): 0,
        ("2", "paused"): 0,
        ("2", "stuck"): 1,
    }


def test_gauges_show_what_waits_now() -> None:
    assert values(family("gnomon.mirror.share"), "gnomon.model.name") == {("churn",): 0.125}
    assert values(family("gnomon.shadow.queue.depth"), "gnomon.model.name") == {("churn",): 3}
    assert values(family("gnomon.server.active_requests")) == {(): 4}
    assert values(family("gnomon.canary.share"), "gnomon.model.name", "gnomon.model.version") == {("churn", "2"): 0.25}
    assert values(family("gnomon.delivery.step"), "gnomon.model.name", "gnomon.model.version") == {("churn", "2"): 2}


def test_drift_is_shown_by_feature() -> None:
    scores = values(family("gnomon.drift.score"), "gnomon.model.version", "gnomon.feature")
    assert scores == {("1", "age"): 0.5, ("1", "city"): 0.25}
    assert values(family("gnomon.drift.alarm"), "gnomon.feature") == {("age",): 1, ("city",): 0}


def test_counts_of_several_frontends_add_up() -> None:
    part = CallCount(samples.INFER, "OK", samples.histogram(CALL_BOUNDS, 0.002))
    found = family("rpc.server.call.duration", samples.snapshot(calls=(part, part, part)))
    (point,) = found.points
    assert isinstance(point.value, HistogramCounts)
    assert (sum(point.value.counts), point.value.total) == (3, 0.006)


def test_a_shadow_of_two_primaries_is_one_series_since_the_first() -> None:
    later = samples.pair(since_ns=samples.BEGAN, disagreeing=10)
    found = family("gnomon.shadow.disagreements", samples.snapshot(pairs=(later, samples.pair())))
    (point,) = found.points
    assert (point.value, point.since_ns) == (11, samples.COMPARED_SINCE)


def test_what_was_never_counted_has_no_series() -> None:
    empty = families(Snapshot(samples.BEGAN, samples.NOW))
    assert [one.name for one in empty] == ["gnomon.server.active_requests", "gnomon.mirror.sequences.evicted"]


def test_every_name_and_unit_keeps_the_rules() -> None:
    for found in families(samples.snapshot()):
        assert re.fullmatch(r"(gnomon|rpc)(\.[a-z_]+)+", found.name)
        assert found.unit in ("s", "1", "{request}", "{row}", "{sequence}", "{step}", "{version}")
        assert found.description.endswith(".")
        histograms = [point.value for point in found.points if isinstance(point.value, HistogramCounts)]
        assert all(len(value.counts) == len(found.bounds) + 1 for value in histograms)
        assert bool(histograms) is (found.kind == "histogram")


def test_shadow_durations_use_the_fine_bounds() -> None:
    assert tuple(family("gnomon.shadow.duration").bounds) == DURATION_BOUNDS
