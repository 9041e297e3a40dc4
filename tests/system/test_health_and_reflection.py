"""What tools and balancers ask of a gRPC server: is it well, and what does it offer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx_models as models
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from raw_calls import channel, infer, output, request, sent, started
from servers import ServerProcess

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
HEAVY = np.full((1, 3), 2.0, np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("health") / "models"
    models.write(folder, "line", 1, models.affine(2.0))
    models.write(folder, "slow", 1, models.slow(200_000, above=1.5))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(repository, tmp_path_factory.mktemp("health-state")) as running:
        yield running


@pytest.fixture(scope="module")
def wire(server: ServerProcess) -> Iterator[grpc.Channel]:
    with channel(server.grpc) as opened:
        yield opened


def asked(service: str) -> Any:
    return health_pb2.HealthCheckRequest(service=service)


def health(wire: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(wire)


@pytest.mark.parametrize("service", ["", INFERENCE, HEALTH])
def test_check_says_serving_for_the_server_and_its_services(service: str, wire: grpc.Channel) -> None:
    answer = health(wire).Check(asked(service), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_check_of_an_unknown_service_is_not_found(wire: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        health(wire).Check(asked("nobody"), timeout=30)
    error: Any = raised.value
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "service 'nobody' not found")


def test_a_health_check_that_is_no_message_is_the_callers_mistake(wire: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        sent(wire, f"/{HEALTH}/Check", b"\xff\xff\xff")
    error: Any = raised.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "HealthCheckRequest: expected a protobuf message, received 3 bytes" in error.details()


def test_watch_tells_of_the_drain_before_it_ends_and_never_holds_it_up(repository: Path, tmp_path: Path) -> None:
    status = health_pb2.HealthCheckResponse
    # A drain may take five minutes here; the server must not take them for its watchers.
    with ServerProcess(repository, tmp_path / "state", config="grace = 300") as server, channel(server.grpc) as wire:
        stub = health(wire)
        watches = [stub.Watch(asked(name), timeout=120) for name in ("", INFERENCE, "nobody")]
        assert [next(watch).status for watch in watches] == [status.SERVING, status.SERVING, status.SERVICE_UNKNOWN]
        in_flight = started(wire, request("slow", {"x": HEAVY}))
        # On the same connection after it, so that the server has both.
        assert infer(wire, request("line", {"x": HEAVY})).model_name == "line"
        assert server.process is not None
        server.process.terminate()
        assert [next(watch).status for watch in watches[:2]] == [status.NOT_SERVING] * 2
        assert not in_flight.done()
        assert [list(watch) for watch in watches] == [[], [], []]
        assert output(in_flight.result()).tolist() == HEAVY.tolist()
        assert server.process.wait(60) == 0


def reflected(wire: grpc.Channel, **question: Any) -> Any:
    questions = iter([reflection_pb2.ServerReflectionRequest(**question)])
    make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
    (answer,) = make_stub(wire).ServerReflectionInfo(questions, timeout=30)
    return answer


def test_reflection_lists_the_services(wire: grpc.Channel) -> None:
    listed = reflected(wire, list_services="").list_services_response.service
    assert sorted(service.name for service in listed) == sorted([INFERENCE, HEALTH, REFLECTION])


@pytest.mark.parametrize(
    ("symbol", "methods"),
    [
        (INFERENCE, ["ModelInfer", "ModelMetadata", "ModelReady", "ServerLive", "ServerMetadata", "ServerReady"]),
        (HEALTH, ["Check", "Watch"]),
    ],
)
def test_reflection_gives_the_file_of_a_service(symbol: str, methods: list[str], wire: grpc.Channel) -> None:
    (serialised,) = reflected(wire, file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
    file = descriptor_pb2.FileDescriptorProto.FromString(serialised)
    (service,) = file.service
    assert f"{file.package}.{service.name}" == symbol
    assert {method.name for method in service.method} >= set(methods)


def test_reflection_does_not_know_what_is_not_there(wire: grpc.Channel) -> None:
    answer = reflected(wire, file_containing_symbol="inference.Nobody")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_client_without_any_proto_can_infer_by_reflection(wire: grpc.Channel) -> None:
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(wire))
    method = pool.FindServiceByName(INFERENCE).FindMethodByName("ModelInfer")
    made: Any = message_factory.GetMessageClass(method.input_type)(model_name="line")
    made.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    answer: Any = message_factory.GetMessageClass(method.output_type).FromString(
        sent(wire, f"/{INFERENCE}/ModelInfer", made.SerializeToString())
    )
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 4, 6]


def test_a_reflection_request_that_is_no_message_is_the_callers_mistake(wire: grpc.Channel) -> None:
    stream: Any = wire.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")
    call = stream(iter([b"\xff\xff\xff"]), timeout=30)
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
