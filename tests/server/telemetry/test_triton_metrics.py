"""The counts under Triton's names."""

from __future__ import annotations

import pytest
import telemetry_samples as samples

from gnomon_server.telemetry import triton_families
from gnomon_server.wire.counts import InferenceCount


def counters(*inferences: InferenceCount) -> dict[str, dict[tuple[str, ...], object]]:
    """Returns every value by name and label values."""
    return {
        family.name: {tuple(value for _, value in point.attributes): point.value for point in family.points}
        for family in triton_families(samples.snapshot(inferences=inferences))
    }


VERSION = ("churn", "1")


def test_requests_rows_runs_and_microseconds_of_successes_are_counted() -> None:
    found = counters(samples.inference(seconds=(0.002, 0.3), rows=(1, 8)))
    assert found["nv_inference_request_success"] == {VERSION: 2}
    assert found["nv_inference_count"] == {VERSION: 9}
    assert found["nv_inference_exec_count"] == {VERSION: 2}
    assert found["nv_inference_request_duration_us"] == {VERSION: 302_000}
    assert found["nv_inference_compute_infer_duration_us"] == {VERSION: 151_000}


def test_the_times_before_and_after_the_run_are_counted() -> None:
    found = counters(samples.changed(samples.inference(), queue=0.5, inputs=0.25, outputs=0.125))
    names = ("queue", "compute_input", "compute_output")
    assert [found[f"nv_inference_{name}_duration_us"][VERSION] for name in names] == [500_000, 250_000, 125_000]


def test_a_failed_request_counts_as_a_failure_only() -> None:
    found = counters(samples.inference(error="INTERNAL", seconds=(0.02, 0.02), rows=(4, 4)))
    failures = found.pop("nv_inference_request_failure")
    assert failures == {
        (*VERSION, "REJECTED"): 0,
        (*VERSION, "CANCELED"): 0,
        (*VERSION, "BACKEND"): 2,
        (*VERSION, "OTHER"): 0,
    }
    assert {name: series[VERSION] for name, series in found.items()} == dict.fromkeys(found, 0)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("DEADLINE_EXCEEDED", "REJECTED"),
        ("CANCELLED", "CANCELED"),
        ("INTERNAL", "BACKEND"),
        ("INVALID_ARGUMENT", "OTHER"),
    ],
)
def test_every_status_has_its_reason(status: str, reason: str) -> None:
    failures = counters(samples.inference(error=status))["nv_inference_request_failure"]
    assert [labels[2] for labels, value in failures.items() if value] == [reason]


def test_roles_of_one_version_add_up_and_shadow_runs_are_left_out() -> None:
    found = counters(samples.inference(), samples.inference("previous"), samples.inference("shadow"))
    assert found["nv_inference_request_success"] == {VERSION: 2}


def test_without_requests_there_are_no_series() -> None:
    assert counters() == {}
