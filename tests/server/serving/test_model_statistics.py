"""Counts of the frontends as Triton's statistics: its counting rules, in nanoseconds."""

from __future__ import annotations

import telemetry_samples as samples

from gnomon_protos import inference_pb2 as pb
from gnomon_server.serving.statistics import statistics
from gnomon_server.wire.counts import InferenceCount, SizeCount

SIZES = (SizeCount(1, 1, 0.001, 0.002, 0.003), SizeCount(8, 1, 0.01, 0.02, 0.03))


def counted(*counts: InferenceCount) -> pb.ModelStatistics:
    (found,) = statistics([("churn", 1)], counts).model_stats
    return found


def duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))


GOOD = samples.changed(
    samples.inference(seconds=(0.002, 0.3), rows=(1, 8)),
    queue=0.5,
    inputs=0.25,
    outputs=0.125,
    last_ns=1_764_000_000_123_456_789,
    sizes=SIZES,
)
BAD = samples.changed(samples.inference(error="INTERNAL", seconds=(0.04,), rows=(32,)), queue=9.0, last_ns=1)


def test_successes_failures_and_the_times_of_successes_are_told_apart() -> None:
    found = counted(GOOD, BAD)
    assert (found.name, found.version) == ("churn", "1")
    assert (found.inference_count, found.execution_count, found.last_inference) == (9, 2, 1_764_000_000_123)
    assert found.inference_stats == pb.InferStatistics(
        success=duration(2, 0.302),
        fail=duration(1, 0.04),
        queue=duration(2, 0.5),
        compute_input=duration(2, 0.25),
        compute_infer=duration(2, 0.151),
        compute_output=duration(2, 0.125),
    )


def test_batches_count_runs_by_their_rows() -> None:
    assert [size.batch_size for size in counted(GOOD).batch_stats] == [1, 8]
    assert counted(GOOD).batch_stats[1] == pb.InferBatchStatistics(
        batch_size=8,
        compute_input=duration(1, 0.01),
        compute_infer=duration(1, 0.02),
        compute_output=duration(1, 0.03),
    )


def test_roles_of_one_version_add_up() -> None:
    found = counted(GOOD, samples.changed(GOOD, role="previous"))
    assert (found.inference_stats.success.count, found.inference_count) == (4, 18)
    assert [size.compute_infer.count for size in found.batch_stats] == [2, 2]


def test_a_version_without_requests_has_zeros_and_other_versions_count_nothing_for_it() -> None:
    found = statistics([("churn", 2), ("other", 1)], [GOOD]).model_stats
    assert [(one.name, one.version, one.inference_stats.success.count) for one in found] == [
        ("churn", "2", 0),
        ("other", "1", 0),
    ]
