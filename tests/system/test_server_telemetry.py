"""What a whole server tells an independent OTLP receiver, and Prometheus."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from load import Load
from prometheus_client.parser import text_string_to_metric_families
from receivers import StoredSpan, TestAgent, free_ports, running_test_agent
from receivers import eventually as read_until
from servers import ServerProcess
from tallying import at_rest, mirrored

from gnomon_client import Client, ClientError
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS

CONFIG = "grace = 1.0\n[mirror]\ndeadline = 60.0\n"
INFER = "inference.GRPCInferenceService/ModelInfer"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# The shadow doubles: rows of zeros agree, others diverge.
AGREEING, DIVERGENT = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestAgent]:
    with running_test_agent(tmp_path_factory.mktemp("agent")) as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    models.write(folder, "m", 1, models.affine(1.0))
    models.write(folder, "m", 2, models.affine(2.0))
    return folder


def environment(endpoint: str, **more: str) -> dict[str, str]:
    quick = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "whole", **quick, **more}


def of_trace(spans: list[StoredSpan], trace: str) -> dict[str, StoredSpan]:
    """The spans of a trace and those that are linked to it, by name."""
    found = [span for span in spans if trace in (span.trace_id, *(link.trace_id for link in span.links))]
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


def send(client: Client, row: np.ndarray, trace: str = TRACE, flags: str = "01") -> None:
    # Asked for on its own, so that the trace is of one call.
    client.model_metadata("m")
    client.infer("m", row, metadata={"traceparent": f"00-{trace}-{SPAN}-{flags}", "tracestate": "vendor=a"})


def test_a_sampled_call_is_a_child_of_its_caller_with_its_run_and_its_linked_shadow(
    agent: TestAgent, repository: Path, tmp_path: Path
) -> None:
    with (
        ServerProcess(repository, tmp_path / "state", config=CONFIG, environment=environment(agent.endpoint)) as server,
        server.control() as control,
        server.client() as client,
    ):
        mirrored(control, "m")
        send(client, AGREEING)
        found = read_until(lambda: of_trace(agent.spans(), TRACE), lambda spans: len(spans) == 3)
    call, run, shadow = found[INFER], found["gnomon.run"], found["gnomon.shadow"]
    assert (call.kind, call.parent_id, call.trace_state) == ("SERVER", SPAN, "vendor=a")
    assert call.attributes["rpc.response.status_code"] == "OK"
    assert call.resource["service.name"] == "whole"
    assert (run.trace_id, run.parent_id) == (TRACE, call.span_id)
    assert (run.attributes["gnomon.model.version"], run.attributes["gnomon.role"]) == ("1", "primary")
    assert call.start_ns <= run.start_ns <= run.end_ns <= call.end_ns
    (link,) = shadow.links
    assert (link.trace_id, link.span_id) == (TRACE, call.span_id)
    assert shadow.trace_id != TRACE
    assert (shadow.attributes["gnomon.outcome"], shadow.attributes["gnomon.divergent"]) == ("compared", False)


@pytest.mark.parametrize(("sampler", "flags"), [("always_off", "01"), ("parentbased_always_on", "00")])
def test_a_divergent_call_is_traced_although_the_sampler_said_no_and_an_agreeing_one_is_not(
    sampler: str, flags: str, agent: TestAgent, repository: Path, tmp_path: Path
) -> None:
    divergent, agreeing = (f"{trace[:-1]}{flags[-1]}" for trace in ("d" * 32, "a" * 32))
    chosen = environment(agent.endpoint, OTEL_TRACES_SAMPLER=sampler)
    with (
        ServerProcess(repository, tmp_path / "state", config=CONFIG, environment=chosen) as server,
        server.control() as control,
        server.client() as client,
    ):
        mirrored(control, "m")
        send(client, AGREEING, agreeing, flags)
        send(client, DIVERGENT, divergent, flags)
        at_rest(control, "m", 2)
    # The server has ended and sent all that it had.
    spans = agent.spans()
    assert of_trace(spans, agreeing) == {}
    found = of_trace(spans, divergent)
    call, shadow = found[INFER], found["gnomon.shadow"]
    assert call.parent_id == SPAN
    assert found["gnomon.run"].parent_id == call.span_id
    assert (shadow.links[0].trace_id, shadow.links[0].span_id) == (divergent, call.span_id)
    assert shadow.attributes["gnomon.divergent"] is True
    assert shadow.attributes["gnomon.divergence.y"] == 1.0


def test_a_divergent_call_that_is_sampled_as_well_is_exported_once(
    agent: TestAgent, repository: Path, tmp_path: Path
) -> None:
    with (
        ServerProcess(repository, tmp_path / "state", config=CONFIG, environment=environment(agent.endpoint)) as server,
        server.control() as control,
        server.client() as client,
    ):
        mirrored(control, "m")
        send(client, DIVERGENT, OTHER_TRACE)
        at_rest(control, "m", 1)
    # of_trace finds each name once.
    assert set(of_trace(agent.spans(), OTHER_TRACE)) == {INFER, "gnomon.run", "gnomon.shadow"}


def test_metrics_of_calls_mirror_and_divergence_arrive(repository: Path, tmp_path: Path) -> None:
    with (
        running_test_agent(tmp_path) as agent,
        ServerProcess(repository, tmp_path / "state", config=CONFIG, environment=environment(agent.endpoint)) as server,
        server.control() as control,
        server.client() as client,
    ):
        mirrored(control, "m")
        for row in (AGREEING, AGREEING, DIVERGENT):
            client.infer("m", row)
        at_rest(control, "m", 3)
        server.terminate()
        metrics = agent.metrics()
    outcomes = {point.attributes["gnomon.outcome"]: point.value for point in metrics["gnomon.mirror.requests"].points}
    assert outcomes == {
        "compared": 3,
        "shadow_error": 0,
        "primary_error": 0,
        "timeout": 0,
        "dropped": 0,
        "not_comparable": 0,
    }
    divergence = metrics["gnomon.shadow.divergence"].point(gnomon__output="y", gnomon__model__version="2")
    assert (divergence.bounds, divergence.count, divergence.sum) == (DIVERGENCE_BOUNDS, 3, 1.0)
    assert divergence.bucket_counts[0] == 2
    calls = metrics["rpc.server.call.duration"].point(rpc__method=INFER, rpc__response__status_code="OK")
    assert calls.count == sum(calls.bucket_counts) == 3
    assert metrics["gnomon.inference.requests"].point(gnomon__model__version="1").value == 3
    assert metrics["gnomon.shadow.disagreements"].points[0].value == 1


def test_the_metrics_page_parses_and_no_client_can_invent_a_label(repository: Path, tmp_path: Path) -> None:
    with (
        ServerProcess(repository, tmp_path / "state", config=CONFIG) as server,
        server.control() as control,
        server.client() as client,
    ):
        mirrored(control, "m")
        for stranger in ("stranger", 'quo"te', "new\nline"):
            with pytest.raises(ClientError):
                client.model_metadata(stranger)
        with pytest.raises(ClientError):
            client.infer("m", AGREEING, version=99)
        for _ in range(5):
            client.infer("m", AGREEING)
        at_rest(control, "m", 5)
        families = read_until(lambda: page(server), lambda found: "nv_inference_request_success" in found)
    (succeeded,) = families["nv_inference_request_success"]
    assert succeeded == ({"model": "m", "version": "1"}, 5.0)
    labels = [labels for samples in families.values() for labels, _ in samples]
    assert {found["model"] for found in labels if "model" in found} == {"m"}
    assert {found["gnomon_model_name"] for found in labels if "gnomon_model_name" in found} == {"m"}
    versions = {found[key] for found in labels for key in ("version", "gnomon_model_version") if key in found}
    assert versions == {"1", "2"}
    compared = [value for found, value in families["gnomon_mirror_requests"] if found["gnomon_outcome"] == "compared"]
    assert compared == [5.0]


def page(server: ServerProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The samples of /metrics by family."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples if not sample.name.endswith("created")]
        for family in text_string_to_metric_families(text)
    }


def test_a_receiver_that_is_away_delays_no_request_and_no_shutdown(repository: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    dead = environment(f"http://127.0.0.1:{port}")
    with (
        ServerProcess(repository, tmp_path / "state", config=CONFIG, environment=dead) as server,
        server.control() as control,
    ):
        mirrored(control, "m")
        with Load(server.grpc, "m") as load:
            load.reach(200)
        assert load.failures == []
        at_rest(control, "m", load.ended)
        # Less than what the exporter itself would go on trying for.
        assert server.terminate(30) == 0
    assert not [line for line in server.log if "Traceback" in line]
