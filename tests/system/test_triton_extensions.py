"""Triton's extensions of the protocol over both transports, from two frontends that share the port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import onnx_models as models
import pytest
from raw_calls import SERVICE, channel, infer, request, sent
from servers import ServerProcess

from gnomon_protos import inference_pb2 as pb

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("extensions") / "models"
    models.write(folder, "line", 1, models.affine(2.0))
    models.write(folder, "scores", 1, models.classifier())
    models.write(folder, "raising", 1, models.raising())
    models.write(folder, "centred", 1, models.centred())
    state = tmp_path_factory.mktemp("extensions-state")
    with ServerProcess(folder, state, "--transport", request.param, "--workers", "2") as running:
        yield running


@pytest.fixture(scope="module")
def wire(server: ServerProcess) -> Iterator[grpc.Channel]:
    with channel(server.grpc) as opened:
        yield opened


def asked(wire: grpc.Channel, method: str, message: Any) -> Any:
    answer = getattr(pb, f"{method}Response")
    return answer.FromString(sent(wire, SERVICE + method, message.SerializeToString()))


def refused(wire: grpc.Channel, method: str, message: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        asked(wire, method, message)
    error: Any = raised.value
    return error.code().name, error.details()


def counted(wire: grpc.Channel, model: str) -> pb.ModelStatistics:
    (found,) = asked(wire, "ModelStatistics", pb.ModelStatisticsRequest(name=model)).model_stats
    statistics: pb.ModelStatistics = found
    return statistics


def test_statistics_count_what_every_frontend_has_done_until_now(server: ServerProcess, wire: grpc.Channel) -> None:
    before = counted(wire, "line")
    with ExitStack() as stack:
        # Connections go to one frontend or the other, and only the sum is the server's.
        channels = [stack.enter_context(channel(server.grpc)) for _ in range(8)]
        for number in range(40):
            infer(channels[number % 8], request("line", {"x": np.repeat(ROW, 1 + number % 2, 0)}))
        after = counted(wire, "line")
    assert after.inference_stats.success.count - before.inference_stats.success.count == 40
    assert after.inference_count - before.inference_count == 60
    assert after.execution_count - before.execution_count == 40
    assert after.last_inference > before.last_inference
    assert after.inference_stats.fail.count == 0
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        new, old = getattr(after.inference_stats, part), getattr(before.inference_stats, part)
        assert new.count - old.count == 40
        assert 0 < new.ns - old.ns < after.inference_stats.success.ns - before.inference_stats.success.ns
    sizes = {size.batch_size: size.compute_infer.count for size in after.batch_stats}
    assert sizes[1] >= 20 <= sizes[2]


def test_statistics_count_failures_apart(wire: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError):
        infer(wire, request("raising", {"x": ROW}))
    found = counted(wire, "raising")
    assert (found.inference_stats.fail.count, found.inference_stats.success.count) == (1, 0)
    assert found.inference_stats.fail.ns > 0


def test_statistics_without_a_name_are_those_of_every_model(wire: grpc.Channel) -> None:
    found = asked(wire, "ModelStatistics", pb.ModelStatisticsRequest()).model_stats
    assert [(one.name, one.version) for one in found] == [
        *(("centred", "1"), ("line", "1"), ("raising", "1"), ("scores", "1"))
    ]


@pytest.mark.parametrize("method", ["ModelStatistics", "ModelConfig"])
def test_what_is_not_there_has_neither_statistics_nor_a_configuration(method: str, wire: grpc.Channel) -> None:
    kind = getattr(pb, f"{method}Request")
    assert refused(wire, method, kind(name="nobody")) == ("NOT_FOUND", "model 'nobody' not found")
    status, text = refused(wire, method, kind(name="line", version="9"))
    assert (status, text) == ("NOT_FOUND", "model 'line': version '9' not found: expected one of [1]")
    assert refused(wire, method, kind(name="line", version="1abc"))[0] == "INVALID_ARGUMENT"


def test_the_configuration_says_how_a_model_is_batched(wire: grpc.Channel) -> None:
    found = asked(wire, "ModelConfig", pb.ModelConfigRequest(name="scores")).config
    assert (found.name, found.platform, found.max_batch_size) == ("scores", "onnxruntime_onnx", 64)
    assert [(i.name, i.data_type, list(i.dims)) for i in found.input] == [("x", pb.TYPE_FP32, [3])]
    assert [(o.name, o.data_type, list(o.dims)) for o in found.output] == [
        *(("label", pb.TYPE_INT64, []), ("probabilities", pb.TYPE_FP32, [2]))
    ]
    assert found.HasField("dynamic_batching")
    dependent = asked(wire, "ModelConfig", pb.ModelConfigRequest(name="centred", version="1")).config
    assert not dependent.HasField("dynamic_batching")


def test_extensions_name_what_works(wire: grpc.Channel) -> None:
    found = asked(wire, "ServerMetadata", pb.ServerMetadataRequest()).extensions
    assert sorted(found) == ["binary_tensor_data", "model_configuration", "parameters", "statistics"]


@pytest.mark.parametrize("method", ["TraceSetting", "LogSettings", "CudaSharedMemoryStatus"])
def test_a_method_that_is_declared_and_not_offered_says_so(method: str, wire: grpc.Channel) -> None:
    message = getattr(pb, f"{method}Request")()
    assert refused(wire, method, message) == ("UNIMPLEMENTED", f"method '{method}' is not offered")
