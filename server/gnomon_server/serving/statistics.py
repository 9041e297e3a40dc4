"""Statistics: what versions have done, as Triton's ModelStatistics tells it.

What counts where is in triton-inference-server/server docs/protocol/extension_statistics.md: `success` and `fail` are
whole requests, the other durations are of successful requests only, and each of the requests in one run counts the
whole length of that run; `batch_stats` count runs. Triton measures behind its protocols; here `success` and
`compute_input` begin with the reading of the message, and `compute_output` ends with the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gnomon_protos import inference_pb2 as pb
from gnomon_server.wire import sizes
from gnomon_server.wire.counts import InferenceCount, SizeCount


def statistics(versions: Iterable[tuple[str, int]], counts: Sequence[InferenceCount]) -> pb.ModelStatisticsResponse:
    """Returns the statistics of versions, given as (model, version), also of those that no request has reached."""
    response = pb.ModelStatisticsResponse()
    for model, version in versions:
        own = [count for count in counts if (count.model, count.version) == (model, version)]
        response.model_stats.append(_statistics(model, version, own))
    return response


def _statistics(model: str, version: int, counts: Sequence[InferenceCount]) -> pb.ModelStatistics:
    good = [count for count in counts if not count.error]
    return pb.ModelStatistics(
        name=model,
        version=str(version),
        last_inference=max((count.last_ns for count in counts), default=0) // 1_000_000,
        inference_count=round(sum(count.batches.total for count in good)),
        execution_count=sum(sum(count.batches.counts) for count in good),
        inference_stats=_requests(good, [count for count in counts if count.error]),
        batch_stats=map(_size, sizes.merge(size for count in good for size in count.sizes)),
    )


def _requests(good: Sequence[InferenceCount], bad: Sequence[InferenceCount]) -> pb.InferStatistics:
    ran = sum(sum(count.runs.counts) for count in good)
    return pb.InferStatistics(
        success=_whole(good),
        fail=_whole(bad),
        queue=_duration(ran, sum(count.queue for count in good)),
        compute_input=_duration(ran, sum(count.inputs for count in good)),
        compute_infer=_duration(ran, sum(count.runs.total for count in good)),
        compute_output=_duration(ran, sum(count.outputs for count in good)),
    )


def _whole(counts: Sequence[InferenceCount]) -> pb.StatisticDuration:
    requests = sum(sum(count.durations.counts) for count in counts)
    return _duration(requests, sum(count.durations.total for count in counts))


def _size(size: SizeCount) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=size.rows,
        compute_input=_duration(size.runs, size.inputs),
        compute_infer=_duration(size.runs, size.running),
        compute_output=_duration(size.runs, size.outputs),
    )


def _duration(count: int, seconds: float) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=round(seconds * 1e9))
