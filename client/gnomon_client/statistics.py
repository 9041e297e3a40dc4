"""What versions of a model have done since the server began to count."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon_protos import inference_pb2 as pb


@dataclass(frozen=True)
class Spent:
    """How often something was done, and how long that took altogether."""

    count: int
    seconds: float

    @property
    def mean(self) -> float:
        """Seconds each time; 0 if it was never done."""
        return self.seconds / self.count if self.count else 0.0


@dataclass(frozen=True)
class BatchStatistics:
    """Runs of one number of rows."""

    rows: int
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent


@dataclass(frozen=True)
class ModelStatistics:
    """What one version has done."""

    model: str
    version: str
    # Rows of successful requests, and the runs that they took.
    inferences: int
    executions: int
    # Whole requests.
    success: Spent
    fail: Spent
    # Of successful requests: waiting, preparing inputs, running, writing outputs.
    queue: Spent
    compute_input: Spent
    compute_infer: Spent
    compute_output: Spent
    batches: tuple[BatchStatistics, ...]


def read_statistics(message: pb.ModelStatisticsResponse) -> tuple[ModelStatistics, ...]:
    """Returns the message as values."""
    return tuple(map(_version, message.model_stats))


def _version(message: pb.ModelStatistics) -> ModelStatistics:
    spent = message.inference_stats
    return ModelStatistics(
        model=message.name,
        version=message.version,
        inferences=message.inference_count,
        executions=message.execution_count,
        success=_spent(spent.success),
        fail=_spent(spent.fail),
        queue=_spent(spent.queue),
        compute_input=_spent(spent.compute_input),
        compute_infer=_spent(spent.compute_infer),
        compute_output=_spent(spent.compute_output),
        batches=tuple(
            BatchStatistics(
                size.batch_size, _spent(size.compute_input), _spent(size.compute_infer), _spent(size.compute_output)
            )
            for size in message.batch_stats
        ),
    )


def _spent(message: pb.StatisticDuration) -> Spent:
    return Spent(message.count, message.ns * 1e-9)
