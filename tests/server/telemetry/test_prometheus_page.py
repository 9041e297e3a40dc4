"""`/metrics`, as Prometheus's own parser reads it."""

from __future__ import annotations

import telemetry_samples as samples
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from gnomon_server.telemetry import Snapshot, metrics_page


def parsed(snapshot: Snapshot) -> dict[str, Metric]:
    body, _ = metrics_page(snapshot)
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def value(family: Metric, sample: str, **labels: str) -> float:
    (found,) = [one.value for one in family.samples if one.name == sample and labels.items() <= one.labels.items()]
    return found


def test_the_page_is_prometheus_text() -> None:
    body, content_type = metrics_page(samples.snapshot())
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert body.endswith(b"\n")


def test_names_have_underscores_and_the_suffix_of_their_unit_and_kind() -> None:
    # The parser takes `_total` off the name of a counter.
    assert {name: family.type for name, family in parsed(samples.snapshot()).items()} == {
        "rpc_server_call_duration_seconds": "histogram",
        "gnomon_server_active_requests": "gauge",
        "gnomon_inference_requests": "counter",
        "gnomon_inference_duration_seconds": "histogram",
        "gnomon_inference_batch_size": "histogram",
        "gnomon_mirror_requests": "counter",
        "gnomon_mirror_sequences_evicted": "counter",
        "gnomon_mirror_share": "gauge",
        "gnomon_shadow_divergence": "histogram",
        "gnomon_shadow_disagreements": "counter",
        "gnomon_shadow_duration_seconds": "histogram",
        "gnomon_shadow_queue_depth": "gauge",
        "gnomon_verdict": "gauge",
        "gnomon_drift_score": "gauge",
        "gnomon_drift_alarm": "gauge",
        "gnomon_model_state": "gauge",
        "gnomon_route_switches": "counter",
        "gnomon_canary_share": "gauge",
        "gnomon_delivery_step": "gauge",
        "gnomon_delivery_state": "gauge",
        "nv_inference_request_success": "counter",
        "nv_inference_request_failure": "counter",
        "nv_inference_count": "counter",
        "nv_inference_exec_count": "counter",
        "nv_inference_request_duration_us": "counter",
        "nv_inference_compute_infer_duration_us": "counter",
        "nv_inference_queue_duration_us": "counter",
        "nv_inference_compute_input_duration_us": "counter",
        "nv_inference_compute_output_duration_us": "counter",
    }


def test_buckets_are_cumulative() -> None:
    family = parsed(samples.snapshot())["rpc_server_call_duration_seconds"]
    ok = {"rpc_response_status_code": "OK", "rpc_method": samples.INFER}
    bucket = "rpc_server_call_duration_seconds_bucket"
    assert [value(family, bucket, le=le, **ok) for le in ("0.005", "0.25", "0.5", "10.0", "+Inf")] == [1, 1, 2, 2, 2]
    assert value(family, "rpc_server_call_duration_seconds_sum", **ok) == 0.302
    assert value(family, "rpc_server_call_duration_seconds_count", **ok) == 2


def test_counters_keep_their_values_and_triton_its_names() -> None:
    found = parsed(samples.snapshot())
    mirrored = found["gnomon_mirror_requests"]
    assert value(mirrored, "gnomon_mirror_requests_total", gnomon_model_version="2", gnomon_outcome="timeout") == 1
    # Read as text: the parser adds `_total` to a counter's name, which Triton's do not have.
    body, _ = metrics_page(samples.snapshot())
    assert b'\nnv_inference_request_success{model="churn",version="1"} 2\n' in body
    assert b"\n# TYPE nv_inference_request_success counter\n" in body


@given(st.text())
def test_whatever_a_model_is_called_the_page_can_be_read(name: str) -> None:
    page = parsed(Snapshot(samples.BEGAN, samples.NOW, states={(name, 1): "ready"}))
    labels = {sample.labels["gnomon_model_name"] for sample in page["gnomon_model_state"].samples}
    assert labels == {name}
