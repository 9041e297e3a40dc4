"""What gnomon exports, as independent OTLP receivers understood it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import telemetry_samples as samples
from receivers import Rotel, TestAgent, eventually, running_rotel, running_test_agent

from gnomon_server.telemetry import Telemetry
from gnomon_server.wire.histogram import CALL_BOUNDS, DIVERGENCE_BOUNDS, DURATION_BOUNDS
from gnomon_server.wire.traces import CallTrace, ShadowTrace

CALL, SHADOW = samples.CALL, samples.SHADOW
SECOND = samples.changed(CALL, span_id=6, status="INTERNAL", parent_id=0, trace_state="")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[TestAgent]:
    with running_test_agent(tmp_path) as running:
        yield running


@pytest.fixture
def rotel(tmp_path: Path) -> Iterator[Rotel]:
    with running_rotel(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "fraud")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")


def export(
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    calls: Sequence[CallTrace] = (),
    shadows: Sequence[ShadowTrace] = (),
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    telemetry = Telemetry.from_environment(os.environ, "1.2.3")
    telemetry.start(samples.snapshot)
    telemetry.record(calls, shadows)
    telemetry.shutdown(timeout=30)


def test_a_receiver_stores_the_call_its_run_and_the_linked_shadow(
    agent: TestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(agent.endpoint, monkeypatch, [CALL], [SHADOW])
    server, run, shadow = eventually(agent.spans, lambda spans: len(spans) == 3)

    assert server.name == samples.INFER
    assert (server.kind, server.status) == ("SERVER", "UNSET")
    assert (server.trace_id, server.span_id) == (CALL.trace_id.hex(), "8000000000000005")
    assert (server.parent_id, server.trace_state) == ("b7ad6b7169203331", "vendor=a,other=b")
    assert (server.start_ns, server.end_ns) == (CALL.start_ns, CALL.end_ns)
    assert server.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": samples.INFER,
        "rpc.response.status_code": "OK",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": 53478,
    }
    assert server.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert server.resource.items() >= {
        ("service.name", "fraud"),
        ("service.version", "1.2.3"),
        ("deployment.environment.name", "test"),
    }

    assert (run.name, run.kind, run.status) == ("gnomon.run", "INTERNAL", "UNSET")
    assert (run.trace_id, run.parent_id) == (server.trace_id, server.span_id)
    assert (run.start_ns, run.end_ns) == (CALL.run_start_ns, CALL.run_end_ns)
    assert run.attributes == {"gnomon.model.name": "churn", "gnomon.model.version": "1", "gnomon.role": "primary"}

    assert (shadow.name, shadow.kind, shadow.status) == ("gnomon.shadow", "INTERNAL", "UNSET")
    assert (shadow.start_ns, shadow.end_ns) == (SHADOW.start_ns, SHADOW.end_ns)
    assert shadow.attributes == {
        "gnomon.model.name": "churn",
        "gnomon.model.version": "2",
        "gnomon.role": "shadow",
        "gnomon.outcome": "compared",
        "gnomon.divergent": True,
        "gnomon.divergence.probabilities": 0.25,
        "gnomon.divergence.label": 1.0,
    }


def test_a_shadow_never_joins_the_trace_of_its_user(agent: TestAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    export(agent.endpoint, monkeypatch, [CALL], [SHADOW])
    server, _, shadow = eventually(agent.spans, lambda spans: len(spans) == 3)
    assert shadow.trace_id != server.trace_id
    assert shadow.parent_id == ""
    (link,) = shadow.links
    assert (link.trace_id, link.span_id) == (server.trace_id, server.span_id)
    assert link.attributes == {"gnomon.model.name": "churn", "gnomon.model.version": "1", "gnomon.role": "primary"}


def test_a_divergent_request_is_stored_although_the_sampler_said_no(
    agent: TestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsampled = samples.changed(SHADOW, unsampled=True)
    export(agent.endpoint, monkeypatch, [], [unsampled, samples.changed(unsampled, version=3)])
    spans = eventually(agent.spans, lambda found: len(found) >= 4)
    assert sorted(span.name for span in spans) == ["gnomon.run", "gnomon.shadow", "gnomon.shadow", samples.INFER]


def test_a_failed_call_is_stored_as_an_error(agent: TestAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    export(agent.endpoint, monkeypatch, [SECOND])
    server, _ = eventually(agent.spans, lambda spans: len(spans) == 2)
    assert (server.status, server.parent_id) == ("ERROR", "")
    assert server.attributes["error.type"] == server.attributes["rpc.response.status_code"] == "INTERNAL"


def test_a_receiver_stores_the_metrics_with_their_bounds_and_counts(
    agent: TestAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(agent.endpoint, monkeypatch)
    metrics = eventually(agent.metrics, bool)
    assert set(metrics) == {
        "rpc.server.call.duration",
        "gnomon.server.active_requests",
        "gnomon.inference.requests",
        "gnomon.inference.duration",
        "gnomon.inference.batch.size",
        "gnomon.mirror.requests",
        "gnomon.mirror.sequences.evicted",
        "gnomon.mirror.share",
        "gnomon.shadow.divergence",
        "gnomon.shadow.disagreements",
        "gnomon.shadow.duration",
        "gnomon.shadow.queue.depth",
        "gnomon.verdict",
        "gnomon.drift.score",
        "gnomon.drift.alarm",
        "gnomon.canary.share",
        "gnomon.delivery.state",
        "gnomon.delivery.step",
        "gnomon.model.state",
        "gnomon.route.switches",
    }

    calls = metrics["rpc.server.call.duration"]
    assert (calls.kind, calls.unit, calls.temporality) == ("histogram", "s", "CUMULATIVE")
    answered = calls.point(rpc__response__status_code="OK")
    assert answered.bounds == CALL_BOUNDS
    assert (answered.count, answered.sum) == (2, 0.302)
    assert answered.bucket_counts == (1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)
    assert (answered.start_ns, answered.time_ns) == (samples.BEGAN, samples.NOW)
    assert calls.point(rpc__response__status_code="INTERNAL").attributes["error.type"] == "INTERNAL"

    requests = metrics["gnomon.inference.requests"]
    assert (requests.kind, requests.monotonic, requests.temporality) == ("sum", True, "CUMULATIVE")
    assert requests.point(error__type="INTERNAL").value == 1

    divergence = metrics["gnomon.shadow.divergence"].point(gnomon__output="probabilities")
    assert (divergence.bounds, divergence.count, divergence.sum) == (DIVERGENCE_BOUNDS, 5, 0.25)
    assert divergence.start_ns == samples.COMPARED_SINCE
    assert metrics["gnomon.shadow.duration"].points[0].bounds == DURATION_BOUNDS

    mirrored = metrics["gnomon.mirror.requests"]
    assert {point.attributes["gnomon.outcome"]: point.value for point in mirrored.points} == {
        "compared": 5,
        "shadow_error": 0,
        "primary_error": 0,
        "timeout": 1,
        "dropped": 0,
        "not_comparable": 0,
    }
    verdict = metrics["gnomon.verdict"]
    assert verdict.kind == "gauge"
    assert {point.attributes["gnomon.state"] for point in verdict.points if point.value} == {"keep watching"}


def test_another_decoder_reads_the_same(rotel: Rotel, monkeypatch: pytest.MonkeyPatch) -> None:
    export(rotel.endpoint, monkeypatch, [CALL], [SHADOW])
    server, run, shadow = eventually(rotel.spans, lambda spans: len(spans) == 3 and "Links:" in spans[2])
    for text in (
        "    Trace ID       : 0af7651916cd43dd8448eb211c80319c\n",
        "    Parent ID      : b7ad6b7169203331\n",
        "    ID             : 8000000000000005\n",
        "    Kind           : SPAN_KIND_SERVER\n",
        f"Start time: {CALL.start_ns}\nEnd time: {CALL.end_ns}\n",
    ):
        assert text in server
    assert "    Parent ID      : 8000000000000005\n" in run
    assert "-> gnomon.divergence.probabilities: Double(0.25)" in shadow
    link = shadow.partition("Links:")[2]
    assert "-> Trace ID: 0af7651916cd43dd8448eb211c80319c\n     -> ID: 8000000000000005\n" in link

    metrics = eventually(rotel.metrics, lambda found: "gnomon.model.state" in found)
    calls = metrics["rpc.server.call.duration"]
    assert "-> DataType: Histogram" in calls
    assert "-> AggregationTemporality: AGGREGATION_TEMPORALITY_CUMULATIVE" in calls
    assert "ExplicitBounds #0: 0.005\n" in calls
    assert "Count: 2\nSum: 0.302\n" in calls
    # Nobody knows the least and greatest duration, so that none is claimed.
    assert "Min:" not in calls
    assert "Max:" not in calls
