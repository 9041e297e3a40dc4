"""A remote shadow: a version behind an endpoint of the Open Inference Protocol, compared as a local one is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import inference_pb2_grpc, tensors
from gnomon_protos.tensors import Array
from gnomon_server.errors import DeadlineExceeded, Internal, LoadError, NotReady
from gnomon_server.models import requests
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import RemoteSettings
from gnomon_server.shadow.breaker import Breaker
from gnomon_server.wire.messages import SHADOW_MARKER

UNLIMITED: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
# The other side was not reached, or was too busy: this says nothing about the version.
AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED})


class Remote:
    """Runs by calling; for one thread at a time.

    `deadline` is the seconds that a call may take. Raises LoadError if the endpoint does not describe its model.
    """

    digest = ""
    comparisons: tuple[Comparison, ...] = ()

    def __init__(
        self,
        model: str,
        version: int,
        settings: RemoteSettings,
        deadline: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.version = version
        self._settings = settings
        self._deadline = deadline
        self._clock = clock
        self._breaker = Breaker(settings.patience, settings.pause)
        self._metadata = (
            (SHADOW_MARKER, "true"),
            *((name.lower(), os.path.expandvars(value)) for name, value in settings.headers.items()),
        )
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(_channel(settings))
        self.signature = self._describe()
        self.coalescable = bool(settings.rows) and self.signature.batched

    @property
    def trouble(self) -> str:
        """Why nothing is sent; empty while all is well."""
        if not self._breaker.is_open:
            return ""
        return f"{self._settings.address} was not reached {self._breaker.failures} times in a row"

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the named outputs, of several calls at once where the rows are more than one call takes.

        Raises NotReady where the endpoint was not reached, DeadlineExceeded where it did not answer in time, Internal
        where it failed on these inputs.
        """
        if not self._breaker.allows(self._clock()):
            raise NotReady(self.trouble)
        parts = list(self._parts(inputs))
        answers: list[dict[str, Array]] = []
        for begin in range(0, len(parts), self._settings.concurrency):
            answers += self._together(parts[begin : begin + self._settings.concurrency], outputs)
        if len(answers) == 1:
            return [answers[0][name] for name in outputs]
        return [np.concatenate([answer[name] for answer in answers]) for name in outputs]

    def _parts(self, inputs: Mapping[str, Array]) -> Iterable[Mapping[str, Array]]:
        rows = len(next(iter(inputs.values()))) if self.coalescable and inputs else 0
        if rows <= self._settings.rows:
            yield inputs
            return
        for begin in range(0, rows, self._settings.rows):
            yield {name: array[begin : begin + self._settings.rows] for name, array in inputs.items()}

    def _together(self, parts: Sequence[Mapping[str, Array]], outputs: Sequence[str]) -> list[dict[str, Array]]:
        calls = [
            self._stub.ModelInfer.future(self._request(part, outputs), timeout=self._deadline, metadata=self._metadata)
            for part in parts
        ]
        try:
            responses = [call.result() for call in calls]
        except grpc.RpcError as error:
            for call in calls:
                call.cancel()
            raise self._error(error) from None
        self._breaker = self._breaker.after(True, self._clock())
        return [self._decoded(response, outputs) for response in responses]

    def _request(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> pb.ModelInferRequest:
        request = pb.ModelInferRequest(model_name=self._settings.model or self.model)
        request.model_version = self._settings.version
        for name, array in inputs.items():
            datatype = self.signature.input_specs[name].datatype
            request.inputs.add(name=name, datatype=datatype, shape=array.shape)
            request.raw_input_contents.append(tensors.to_raw(array))
        for name in outputs:
            request.outputs.add(name=name)
        return request

    def _decoded(self, response: pb.ModelInferResponse, outputs: Sequence[str]) -> dict[str, Array]:
        try:
            found = requests.decode_outputs(response)
        except (tensors.TensorError, IndexError) as error:
            raise Internal(f"{self._settings.address}: an answer that is not well formed: {error}") from None
        if missing := [name for name in outputs if name not in found]:
            raise Internal(f"{self._settings.address}: expected outputs {list(outputs)}, received none named {missing}")
        return found

    def _error(self, error: grpc.RpcError) -> NotReady | DeadlineExceeded | Internal:
        status, text = error.code(), f"{self._settings.address}: {error.code().name}: {error.details()}"
        late = status == grpc.StatusCode.DEADLINE_EXCEEDED
        self._breaker = self._breaker.after(not (late or status in AWAY), self._clock())
        if late:
            return DeadlineExceeded(text)
        return NotReady(text) if status in AWAY else Internal(text)

    def _describe(self) -> Signature:
        request = pb.ModelMetadataRequest(name=self._settings.model or self.model, version=self._settings.version)
        try:
            found = self._stub.ModelMetadata(
                request, timeout=self._deadline, metadata=self._metadata, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise LoadError(f"{self._settings.address}: {error.code().name}: {error.details()}") from None
        return Signature(tuple(map(_spec, found.inputs)), tuple(map(_spec, found.outputs)))


def _spec(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))


def _channel(settings: RemoteSettings) -> grpc.Channel:
    if not settings.tls:
        return grpc.insecure_channel(settings.address, UNLIMITED)
    ca, key, certificate = (_read(name) for name in (settings.ca, settings.key, settings.certificate))
    return grpc.secure_channel(settings.address, grpc.ssl_channel_credentials(ca, key, certificate), UNLIMITED)


def _read(name: str) -> bytes | None:
    try:
        return Path(name).read_bytes() if name else None
    except OSError as error:
        raise LoadError(f"{name}: cannot be read: {error.strerror}") from None
