"""Triton's extensions of the protocol over both transports, from two frontends that share the port."""

from __future__ import annotations

import json
import queue
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx_models as models
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from raw_calls import SERVICE, channel, infer, output, request, sent
from servers import ServerProcess, eventually

from gnomon_protos import inference_pb2 as pb

TRITONCLIENT = Path(__file__).parents[1] / "tritonclient_extensions.py"
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
    flags = ("--transport", request.param, "--workers", "2", "--repository-control", "--shared-memory")
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


def outcome(server: ServerProcess, message: pb.ModelInferRequest) -> str:
    """The numbers of an answer, or the status without one; a new connection goes to one frontend or the other."""
    with channel(server.grpc) as wire:
        try:
            return str(output(infer(wire, message)).tolist())
        except grpc.RpcError as error:
            told: Any = error
            return str(told.code().name)


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
        *("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"),
        "system_shared_memory",
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


def test_an_unloaded_model_answers_nothing_in_any_frontend_until_it_is_loaded(
    server: ServerProcess, wire: grpc.Channel
) -> None:
    message = request("guest", {"x": ROW})
    unload = pb.RepositoryModelUnloadRequest(model_name="guest")
    unload.parameters["unload_dependents"].bool_param = False
    asked(wire, "RepositoryModelUnload", unload)
    assert {outcome(server, message) for _ in range(8)} == {"NOT_FOUND"}
    assert refused(wire, "ModelInfer", message) == ("NOT_FOUND", "model 'guest': no version is loaded")
    assert {listed(wire)["guest", version] for version in ("1", "2")} == {("UNAVAILABLE", "unloaded")}
    assert not asked(wire, "ModelReady", pb.ModelReadyRequest(name="guest")).ready
    assert [checked(wire, name) for name in ("", "line", "guest")] == ["SERVING", "SERVING", "NOT_SERVING"]
    assert asked(wire, "ServerReady", pb.ServerReadyRequest()).ready
    assert refused(wire, "ModelStatistics", pb.ModelStatisticsRequest(name="guest"))[0] == "NOT_FOUND"
    asked(wire, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="guest"))
    assert {outcome(server, message) for _ in range(8)} == {str((3 * ROW).tolist())}
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


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_tritonclient_finds_its_extensions(kind: str, server: ServerProcess) -> None:
    ran = subprocess.run(
        [sys.executable, str(TRITONCLIENT), kind, server.grpc], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout)
    before, after = (one["model_stats"][0] for one in said["statistics"])
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 6
    assert (
        int(after["inference_stats"]["success"]["count"]) - int(before["inference_stats"]["success"].get("count", 0))
        == 3
    )
    assert (said["config"]["config"]["name"], said["config"]["config"]["max_batch_size"]) == ("line", 64)
    unloaded, loaded = (
        {(one["name"], one["version"]): one["state"] for one in said[when]["models"]} for when in ("unloaded", "index")
    )
    assert (unloaded["guest", "1"], loaded["guest", "1"]) == ("UNAVAILABLE", "READY")
    assert said["refused"] == ["StatusCode.NOT_FOUND", "model 'guest': no version is loaded"]
    assert said["config_override"][0] == "StatusCode.UNIMPLEMENTED"
    assert said["trace"] == ["StatusCode.UNIMPLEMENTED", "method 'TraceSetting' is not offered"]

    assert said["status"]["regions"]["region"]["byte_size"] == "64"
    assert said["twice"][0] == "StatusCode.ALREADY_EXISTS"
    assert (said["shared"], said["raw"]) == ([[2.0, 4.0, 6.0]], 0)
    assert said["beyond"][0] == "StatusCode.INVALID_ARGUMENT"
    assert said["gone"] == [
        *("StatusCode.NOT_FOUND", "model 'line': input 'x': shared memory region 'region' not found")
    ]
    assert said["left"] == {}

    first, second, third = said["stream"]
    assert (first, third) == (["id 0", [[2.0, 4.0, 6.0]]], ["id 2", [[6.0, 8.0, 10.0]]])
    assert second == "NOT_FOUND: model 'nobody' not found"


@pytest.fixture
def memory() -> Iterator[Path]:
    path = Path("/dev/shm") / f"gnomon-test-{secrets.token_hex(8)}"
    path.write_bytes(ROW.tobytes() + bytes(52))
    yield path
    path.unlink(missing_ok=True)


def registration(memory: Path, **fields: Any) -> pb.SystemSharedMemoryRegisterRequest:
    return pb.SystemSharedMemoryRegisterRequest(**{"name": memory.name, "key": memory.name, "byte_size": 64, **fields})


def placed(memory: Path) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="line")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    tensor.parameters["shared_memory_region"].string_param = memory.name
    tensor.parameters["shared_memory_byte_size"].int64_param = 12
    return message


def test_a_region_is_known_to_every_frontend_at_once_and_as_long_as_it_is_registered(
    server: ServerProcess, wire: grpc.Channel, memory: Path
) -> None:
    for _ in range(2):
        asked(wire, "SystemSharedMemoryRegister", registration(memory))
        assert {outcome(server, placed(memory)) for _ in range(8)} == {str((2 * ROW).tolist())}
        asked(wire, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=memory.name))
        assert {outcome(server, placed(memory)) for _ in range(8)} == {"NOT_FOUND"}
    # What is not there is unregistered already.
    asked(wire, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=memory.name))


def test_a_frontend_that_comes_back_knows_the_regions(server: ServerProcess, wire: grpc.Channel, memory: Path) -> None:
    asked(wire, "SystemSharedMemoryRegister", registration(memory))
    for frontend in server.children("gnomon_server.serving"):
        frontend.kill()
    doubled, seen = str((2 * ROW).tolist()), set[str]()

    def answers() -> bool:
        seen.add(outcome(server, placed(memory)))
        return doubled in seen

    eventually(answers)
    assert seen <= {"UNAVAILABLE", doubled}
    with channel(server.grpc) as opened:
        asked(opened, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest())
        assert not asked(opened, "SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest()).regions


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"name": ""}, "INVALID_ARGUMENT", "name: expected 1 to 255 characters, received 0"),
        ({"name": "x" * 300}, "INVALID_ARGUMENT", "name: expected 1 to 255 characters, received 300"),
        ({"key": ""}, "INVALID_ARGUMENT", "key: expected 1 to 255 characters, received 0"),
        ({"key": "../../etc/passwd"}, "INVALID_ARGUMENT", "shared memory key: expected a name as of shm_open"),
        ({"key": "/gnomon-nothing"}, "NOT_FOUND", "shared memory key '/gnomon-nothing' not found"),
        ({"byte_size": 0}, "INVALID_ARGUMENT", "byte_size: expected > 0, received 0"),
        ({"byte_size": 65}, "INVALID_ARGUMENT", "expected at least 65 bytes in key"),
        ({"offset": 1}, "INVALID_ARGUMENT", "expected at least 65 bytes in key"),
        ({"offset": (1 << 64) - 1}, "INVALID_ARGUMENT", "expected at least 18446744073709551679 bytes"),
    ],
)
def test_a_region_that_cannot_be_registered_says_why(
    fields: dict[str, Any], status: str, text: str, wire: grpc.Channel, memory: Path
) -> None:
    found = refused(wire, "SystemSharedMemoryRegister", registration(memory, **fields))
    assert found[0] == status
    assert text in found[1]
    nobody = pb.SystemSharedMemoryStatusRequest(name="nobody")
    assert refused(wire, "SystemSharedMemoryStatus", nobody)[0] == "NOT_FOUND"


@pytest.mark.parametrize("transport", ["http2", "grpcio"])
def test_an_idle_stream_does_not_hold_up_the_end_of_the_server(transport: str, tmp_path: Path) -> None:
    models.write(tmp_path / "models", "line", 1, models.affine(2.0))
    flags = ("--transport", transport)
    # A drain may take five minutes here; the server must not take them for its streams.
    with (
        ServerProcess(tmp_path / "models", tmp_path / "state", *flags, config="grace = 300") as server,
        channel(server.grpc) as wire,
    ):
        requests: queue.Queue[bytes | None] = queue.Queue()
        begin: Any = wire.stream_stream(
            f"{SERVICE}ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
        )
        stream = begin(iter(requests.get, None), timeout=120)
        requests.put(request("line", {"x": ROW}, id="one").SerializeToString())
        assert next(stream).infer_response.id == "one"
        assert server.process is not None
        server.process.terminate()
        with pytest.raises(grpc.RpcError):
            next(stream)
        assert (stream.code(), stream.details()) == (grpc.StatusCode.UNAVAILABLE, "server is shutting down")
        requests.put(None)
        assert server.process.wait(60) == 0
