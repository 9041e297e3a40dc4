"""Triton's extensions of the protocol over both transports, from two frontends that share the port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx_models as models
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
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
    models.write(folder, "guest", 1, models.affine(3.0))
    models.write(folder, "guest", 2, models.affine(3.0))
    state = tmp_path_factory.mktemp("extensions-state")
    flags = ("--transport", request.param, "--workers", "2", "--repository-control")
    with ServerProcess(folder, state, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def repository(server: ServerProcess) -> Path:
    return server.repository


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
        *(("centred", "1"), ("guest", "1"), ("line", "1"), ("raising", "1"), ("scores", "1"))
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
    assert sorted(found) == [
        *("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
    ]


@pytest.mark.parametrize("method", ["TraceSetting", "LogSettings", "CudaSharedMemoryStatus"])
def test_a_method_that_is_declared_and_not_offered_says_so(method: str, wire: grpc.Channel) -> None:
    message = getattr(pb, f"{method}Request")()
    assert refused(wire, method, message) == ("UNIMPLEMENTED", f"method '{method}' is not offered")


def checked(wire: grpc.Channel, service: str) -> str:
    stub: Any = health_pb2_grpc.HealthStub(wire)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def listed(wire: grpc.Channel, ready: bool = False) -> dict[tuple[str, str], tuple[str, str]]:
    found = asked(wire, "RepositoryIndex", pb.RepositoryIndexRequest(ready=ready)).models
    return {(one.name, one.version): (one.state, one.reason) for one in found}


def test_the_index_names_every_version_and_calls_ready_what_answers(wire: grpc.Channel) -> None:
    shadow = ("UNAVAILABLE", "shadow: gets copies of requests and answers none")
    found = listed(wire)
    assert (found["line", "1"], found["guest", "1"], found["guest", "2"]) == (("READY", ""), ("READY", ""), shadow)
    assert set(listed(wire, ready=True)) == {key for key, state in found.items() if state == ("READY", "")}


def test_an_unloaded_model_answers_nothing_in_any_frontend_until_it_is_loaded(server: ServerProcess) -> None:
    def answers() -> bool:
        with channel(server.grpc) as wire:
            try:
                infer(wire, request("guest", {"x": ROW}))
            except grpc.RpcError as error:
                told: Any = error
                assert (told.code().name, told.details()) == ("NOT_FOUND", "model 'guest': no version is loaded")
                return False
            return True

    with channel(server.grpc) as wire:
        unload = pb.RepositoryModelUnloadRequest(model_name="guest")
        unload.parameters["unload_dependents"].bool_param = False
        asked(wire, "RepositoryModelUnload", unload)
        # Connections go to one frontend or the other.
        assert not any(answers() for _ in range(8))
        assert {listed(wire)["guest", version] for version in ("1", "2")} == {("UNAVAILABLE", "unloaded")}
        assert not asked(wire, "ModelReady", pb.ModelReadyRequest(name="guest")).ready
        assert [checked(wire, name) for name in ("", "line", "guest")] == ["SERVING", "SERVING", "NOT_SERVING"]
        assert asked(wire, "ServerReady", pb.ServerReadyRequest()).ready
        assert refused(wire, "ModelStatistics", pb.ModelStatisticsRequest(name="guest"))[0] == "NOT_FOUND"
        asked(wire, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="guest"))
        assert all(answers() for _ in range(8))
        assert listed(wire)["guest", "1"] == ("READY", "")
        assert checked(wire, "guest") == "SERVING"
    with server.control() as control:
        entries = [(entry.action, entry.actor.partition(":")[0]) for entry in control.audit("guest").entries[:2]]
    assert entries == [("load", "ipv4"), ("unload", "ipv4")]


def test_to_load_waits_for_no_poll_and_says_what_is_broken(wire: grpc.Channel, repository: Path) -> None:
    models.write(repository, "late", 1, models.affine(2.0))
    asked(wire, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="late"))
    infer(wire, request("late", {"x": ROW}))
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    status, text = refused(wire, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="broken"))
    assert status == "FAILED_PRECONDITION"
    assert text.startswith("model 'broken' version '1': load failed: model.onnx does not load")
    state, reason = listed(wire)["broken", "1"]
    assert (state, reason.partition(":")[0]) == ("UNAVAILABLE", "model.onnx does not load")


def with_parameter(name: str, **value: Any) -> pb.RepositoryModelLoadRequest:
    made = pb.RepositoryModelLoadRequest(model_name="line")
    made.parameters[name].CopyFrom(pb.ModelRepositoryParameter(**value))
    return made


@pytest.mark.parametrize("change", ["Load", "Unload"])
@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"model_name": "nobody"}, "NOT_FOUND", "model 'nobody' not found"),
        ({}, "INVALID_ARGUMENT", "model name is empty"),
        (
            {"repository_name": "line"},
            "INVALID_ARGUMENT",
            "expected the name in model_name (field 2), received it in field 1: KServe dialect?",
        ),
        ({"repository_name": "other", "model_name": "line"}, "UNIMPLEMENTED", "repository_name: expected none"),
    ],
)
def test_a_change_of_the_repository_that_cannot_be_says_why(
    change: str, fields: dict[str, str], status: str, text: str, wire: grpc.Channel
) -> None:
    method = f"RepositoryModel{change}"
    found = refused(wire, method, getattr(pb, f"{method}Request")(**fields))
    assert found[0] == status
    assert found[1].startswith(text)


@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        (with_parameter("config", string_param="{}"), "UNIMPLEMENTED", "parameter 'config': models from requests"),
        (with_parameter("file:1/model.onnx", bytes_param=b""), "UNIMPLEMENTED", "parameter 'file:1/model.onnx'"),
        (with_parameter("other", bool_param=True), "INVALID_ARGUMENT", "parameter 'other': expected none"),
    ],
)
def test_what_a_load_may_not_carry_is_refused(
    message: pb.RepositoryModelLoadRequest, status: str, text: str, wire: grpc.Channel
) -> None:
    found = refused(wire, "RepositoryModelLoad", message)
    assert found[0] == status
    assert found[1].startswith(text)


@pytest.mark.parametrize(
    ("name", "value"), [("other", {"bool_param": True}), ("unload_dependents", {"int64_param": 1})]
)
def test_what_an_unload_may_not_carry_is_refused(name: str, value: dict[str, Any], wire: grpc.Channel) -> None:
    message = pb.RepositoryModelUnloadRequest(model_name="line")
    message.parameters[name].CopyFrom(pb.ModelRepositoryParameter(**value))
    assert refused(wire, "RepositoryModelUnload", message)[0] == "INVALID_ARGUMENT"


def test_the_index_of_a_named_repository_is_not_offered(wire: grpc.Channel) -> None:
    assert refused(wire, "RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"))[0] == "UNIMPLEMENTED"
