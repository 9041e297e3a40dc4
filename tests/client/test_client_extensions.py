"""Configuration, statistics and the repository, as values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from client.fake_server import FakeServer

from gnomon_client import (
    AsyncClient,
    BatchStatistics,
    Client,
    DynamicBatching,
    ModelConfig,
    ModelStatistics,
    PermissionDenied,
    RepositoryEntry,
    Spent,
    TensorMetadata,
)
from gnomon_protos import inference_pb2 as pb


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


async def ask(kind: str, server: FakeServer, method: str, *arguments: Any, **how: Any) -> Any:
    """What either client's method gives."""
    if kind == "sync":
        with Client(server.address) as client:
            return getattr(client, method)(*arguments, **how)
    async with AsyncClient(server.address) as client:
        return await getattr(client, method)(*arguments, **how)


both = pytest.mark.parametrize("kind", ["sync", "async"])


@both
async def test_a_configuration_is_a_value(kind: str, server: FakeServer) -> None:
    server.echo.config = pb.ModelConfig(
        name="m",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=8,
        input=[pb.ModelInput(name="x", data_type=pb.TYPE_STRING, dims=[3])],
        output=[pb.ModelOutput(name="y", data_type=pb.TYPE_FP32)],
    )
    plain = ModelConfig(
        name="m",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=8,
        inputs=(TensorMetadata("x", "BYTES", (3,)),),
        outputs=(TensorMetadata("y", "FP32", ()),),
        batching=None,
    )
    assert await ask(kind, server, "model_config", "m", 2) == plain
    seen = server.recorder.seen[0].request
    assert (seen.name, seen.version) == ("m", "2")
    server.echo.config.dynamic_batching.max_queue_delay_microseconds = 1500
    server.echo.config.dynamic_batching.default_queue_policy.max_queue_size = 7
    assert (await ask(kind, server, "model_config", "m")).batching == DynamicBatching(0.0015, 7)


@both
async def test_statistics_are_values_in_seconds(kind: str, server: FakeServer) -> None:
    def duration(count: int, ns: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=ns)

    server.echo.statistics = pb.ModelStatistics(
        name="m",
        version="2",
        inference_count=9,
        execution_count=2,
        inference_stats=pb.InferStatistics(
            success=duration(2, 4_000_000), fail=duration(1, 1), queue=duration(2, 2_000_000_000)
        ),
        batch_stats=[pb.InferBatchStatistics(batch_size=8, compute_infer=duration(1, 3_000_000))],
    )
    (found,) = await ask(kind, server, "statistics", "m")
    none = Spent(0, 0.0)
    assert found == ModelStatistics(
        model="m",
        version="2",
        inferences=9,
        executions=2,
        success=Spent(2, 0.004),
        fail=Spent(1, 1e-9),
        queue=Spent(2, 2.0),
        compute_input=none,
        compute_infer=none,
        compute_output=none,
        batches=(BatchStatistics(8, none, Spent(1, 0.003), none),),
    )
    assert (found.success.mean, none.mean) == (0.002, 0.0)
    assert (await ask(kind, server, "statistics"))[0].model == "m"
    assert [(seen.request.name, seen.request.version) for seen in server.recorder.seen] == [("m", ""), ("", "")]


@both
async def test_the_repository_can_be_listed_and_changed(kind: str, server: FakeServer) -> None:
    assert await ask(kind, server, "repository_index") == (RepositoryEntry("m", "2", "UNAVAILABLE", "unloaded"),)
    assert await ask(kind, server, "repository_index", ready=True) == ()
    assert await ask(kind, server, "load_model", "m") is None
    assert await ask(kind, server, "unload_model", "m") is None
    assert [(seen.method, getattr(seen.request, "model_name", "")) for seen in server.recorder.seen][2:] == [
        ("RepositoryModelLoad", "m"),
        ("RepositoryModelUnload", "m"),
    ]


@both
@pytest.mark.parametrize("method", ["load_model", "unload_model"])
async def test_a_server_that_does_not_allow_a_change_raises_an_error_of_its_own(kind: str, method: str) -> None:
    with FakeServer([grpc.StatusCode.PERMISSION_DENIED]) as server:
        with pytest.raises(PermissionDenied):
            await ask(kind, server, method, "m")
        assert len(server.recorder.seen) == 1
