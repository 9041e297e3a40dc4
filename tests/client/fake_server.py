"""Real gRPC servers in this process that follow a script and remember what they were asked."""

# ruff: noqa: N802  The methods' names are the protocol's.
from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any, Self

import grpc

from gnomon_protos import control_pb2, control_pb2_grpc, inference_pb2_grpc
from gnomon_protos import inference_pb2 as pb
from gnomon_protos.manifest_pb2 import Manifest

Tensor = pb.ModelMetadataResponse.TensorMetadata


@dataclass(frozen=True)
class Seen:
    """One RPC as the server saw it."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    # Seconds until the deadline; None for none.
    remaining: float | None


class Recorder:
    """Records each RPC, then answers with the script's next status; OK once the script has ended.

    With a gate, every RPC waits until it opens.
    """

    def __init__(self, script: Iterable[grpc.StatusCode] = (), gate: threading.Event | None = None) -> None:
        self.script: Iterator[grpc.StatusCode] = iter(script)
        self.gate = gate
        self.seen: list[Seen] = []
        self._lock = threading.Lock()

    def begin(self, method: str, request: Any, context: grpc.ServicerContext) -> None:
        metadata = dict(context.invocation_metadata() or ())
        with self._lock:
            self.seen.append(Seen(method, request, metadata, context.time_remaining()))
            status = next(self.script, grpc.StatusCode.OK)
        if self.gate is not None:
            self.gate.wait()
        if status is not grpc.StatusCode.OK:
            context.abort(status, f"scripted {status.name}")

    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]


class EchoService(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers each inference with its own inputs; `answer` may change the response before it is sent.

    What it says of configuration and statistics are values that a test sets.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.models: dict[str, list[Tensor]] = {}
        self.answer: Callable[[pb.ModelInferResponse], object] = lambda _: None
        self.stream_error = "INVALID_ARGUMENT: input 'x': expected shape [-1, 3]"
        self.config = pb.ModelConfig(name="m")
        self.statistics = pb.ModelStatistics(name="m", version="2")

    def ServerLive(self, request: Any, context: Any) -> pb.ServerLiveResponse:
        self.recorder.begin("ServerLive", request, context)
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> pb.ServerReadyResponse:
        self.recorder.begin("ServerReady", request, context)
        return pb.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> pb.ModelReadyResponse:
        self.recorder.begin("ModelReady", request, context)
        return pb.ModelReadyResponse(ready=request.name in self.models)

    def ServerMetadata(self, request: Any, context: Any) -> pb.ServerMetadataResponse:
        self.recorder.begin("ServerMetadata", request, context)
        return pb.ServerMetadataResponse(name="echo", version="1.0", extensions=["binary_tensor_data"])

    def ModelMetadata(self, request: Any, context: Any) -> pb.ModelMetadataResponse:
        self.recorder.begin("ModelMetadata", request, context)
        if request.name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"model '{request.name}' not found")
        tensors = self.models[request.name]
        return pb.ModelMetadataResponse(
            name=request.name, versions=["1"], platform="echo", inputs=tensors, outputs=tensors
        )

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[pb.ModelStreamInferResponse]:
        """Answers each request like ModelInfer, but for those that have no input of 3 numbers."""
        # A stream that ends while the first request is being written has no status in grpc.aio.
        first = next(requests, None)
        self.recorder.begin("ModelStreamInfer", None, context)
        for request in chain([] if first is None else [first], requests):
            if request.inputs[0].shape[-1] == 3:
                yield pb.ModelStreamInferResponse(infer_response=self.ModelInfer(request, context))
            else:
                yield pb.ModelStreamInferResponse(error_message=self.stream_error)

    def ModelConfig(self, request: Any, context: Any) -> pb.ModelConfigResponse:
        self.recorder.begin("ModelConfig", request, context)
        return pb.ModelConfigResponse(config=self.config)

    def ModelStatistics(self, request: Any, context: Any) -> pb.ModelStatisticsResponse:
        self.recorder.begin("ModelStatistics", request, context)
        return pb.ModelStatisticsResponse(model_stats=[self.statistics])

    def RepositoryIndex(self, request: Any, context: Any) -> pb.RepositoryIndexResponse:
        self.recorder.begin("RepositoryIndex", request, context)
        entry = pb.RepositoryIndexResponse.ModelIndex(name="m", version="2", state="UNAVAILABLE", reason="unloaded")
        return pb.RepositoryIndexResponse(models=[] if request.ready else [entry])

    def RepositoryModelLoad(self, request: Any, context: Any) -> pb.RepositoryModelLoadResponse:
        self.recorder.begin("RepositoryModelLoad", request, context)
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: Any) -> pb.RepositoryModelUnloadResponse:
        self.recorder.begin("RepositoryModelUnload", request, context)
        return pb.RepositoryModelUnloadResponse()

    def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:
        self.recorder.begin("ModelInfer", request, context)
        response = pb.ModelInferResponse(
            model_name=request.model_name, model_version=request.model_version or "1", id=request.id
        )
        for tensor, declared in zip(request.inputs, self.models[request.model_name], strict=True):
            if tensor.datatype != declared.datatype:
                expected = f"expected datatype {declared.datatype}, received {tensor.datatype}"
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"input '{tensor.name}': {expected}")
            response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.extend(request.raw_input_contents)
        self.answer(response)
        return response


class ControlService(control_pb2_grpc.ControlServicer):
    """Answers each call of the control service with something that repeats the request."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def ListModels(self, request: Any, context: Any) -> control_pb2.ListModelsResponse:
        self.recorder.begin("ListModels", request, context)
        return control_pb2.ListModelsResponse(models=[control_pb2.ModelStatus(name=request.model or "every")])

    def GetReport(self, request: Any, context: Any) -> control_pb2.Report:
        self.recorder.begin("GetReport", request, context)
        return control_pb2.Report(model=request.model, shadow=request.shadow)

    def ListDivergent(self, request: Any, context: Any) -> control_pb2.ListDivergentResponse:
        self.recorder.begin("ListDivergent", request, context)
        return control_pb2.ListDivergentResponse(requests=[control_pb2.DivergentRequest(shadow=request.shadow)])

    def GetDrift(self, request: Any, context: Any) -> control_pb2.DriftReport:
        self.recorder.begin("GetDrift", request, context)
        return control_pb2.DriftReport(model=request.model, waiting_rows=request.limit)

    def SetShadow(self, request: Any, context: Any) -> control_pb2.RouteChange:
        self.recorder.begin("SetShadow", request, context)
        shadows = [] if request.off else [control_pb2.Shadow(version=request.version, sample=request.sample)]
        return control_pb2.RouteChange(after=control_pb2.Route(shadows=shadows))

    def SetCanary(self, request: Any, context: Any) -> control_pb2.RouteChange:
        self.recorder.begin("SetCanary", request, context)
        canary = None if request.off else control_pb2.Canary(version=request.version, weight=request.weight)
        return control_pb2.RouteChange(after=control_pb2.Route(canary=canary))

    def Deliver(self, request: Any, context: Any) -> control_pb2.RouteChange:
        self.recorder.begin("Deliver", request, context)
        return control_pb2.RouteChange(after=control_pb2.Route(canary=control_pb2.Canary(version=request.version)))

    def Promote(self, request: Any, context: Any) -> control_pb2.RouteChange:
        self.recorder.begin("Promote", request, context)
        return control_pb2.RouteChange(after=control_pb2.Route(primary=request.version))

    def ApplyRoute(self, request: Any, context: Any) -> control_pb2.RouteChange:
        self.recorder.begin("ApplyRoute", request, context)
        route = control_pb2.Route(generation=request.generation + 1, primary=request.primary, shadows=request.shadows)
        return control_pb2.RouteChange(after=route)

    def Scale(self, request: Any, context: Any) -> control_pb2.ScaleResponse:
        self.recorder.begin("Scale", request, context)
        return control_pb2.ScaleResponse(workers=request.workers)

    def Feedback(self, request: Any, context: Any) -> control_pb2.FeedbackResponse:
        self.recorder.begin("Feedback", request, context)
        return control_pb2.FeedbackResponse(shadows=[control_pb2.Joined(shadow=2, joined=len(request.labels))])

    def Rollback(self, request: Any, context: Any) -> control_pb2.RouteChange:
        self.recorder.begin("Rollback", request, context)
        return control_pb2.RouteChange(after=control_pb2.Route(primary=1))

    def ListAudit(self, request: Any, context: Any) -> control_pb2.ListAuditResponse:
        self.recorder.begin("ListAudit", request, context)
        return control_pb2.ListAuditResponse(entries=[control_pb2.AuditEntry(id=request.limit, model=request.model)])

    def ExportAudit(self, request: Any, context: Any) -> control_pb2.ExportAuditResponse:
        self.recorder.begin("ExportAudit", request, context)
        return control_pb2.ExportAuditResponse(entries=[control_pb2.SealedEntry(id=request.after + 1)])

    def Approve(self, request: Any, context: Any) -> control_pb2.AuditEntry:
        self.recorder.begin("Approve", request, context)
        return control_pb2.AuditEntry(model=request.model, version=request.version)

    def GetManifest(self, request: Any, context: Any) -> Manifest:
        self.recorder.begin("GetManifest", request, context)
        return Manifest(name=request.model, version=request.version)


class FakeServer:
    """Both services on one free port of this machine."""

    def __init__(
        self,
        script: Iterable[grpc.StatusCode] = (),
        gate: threading.Event | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.recorder = Recorder(script, gate)
        # Methods that it leaves to its base answer UNIMPLEMENTED; their type says that they are abstract.
        made: Any = EchoService
        self.echo: EchoService = made(self.recorder)
        self._gate = gate
        largest = 64 << 20
        self._server = grpc.server(
            futures.ThreadPoolExecutor(8),
            options=[("grpc.max_receive_message_length", largest), ("grpc.max_send_message_length", largest)],
        )
        inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self.echo, self._server)
        control_pb2_grpc.add_ControlServicer_to_server(ControlService(self.recorder), self._server)
        if credentials is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def add_model(self, name: str, **inputs: tuple[str, list[int]]) -> str:
        """Adds a model with inputs given as name=(datatype, shape); returns its name."""
        self.echo.models[name] = [
            Tensor(name=key, datatype=datatype, shape=shape) for key, (datatype, shape) in inputs.items()
        ]
        return name

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._gate is not None:
            self._gate.set()
        self._server.stop(None).wait()
