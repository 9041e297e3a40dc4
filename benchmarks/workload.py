"""The workload: one model with its shadows, requests for it, and the right answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import numpy as np
import onnx
from models import INPUT, MODELS, repeated
from onnx_session import open_session

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array, from_raw, to_raw

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
# How much more a heavy shadow has to do than its primary.
HEAVY: Final = 10
# Between answers of two builds of onnxruntime.
RTOL: Final = 1e-4
ATOL: Final = 1e-6


@dataclass(frozen=True)
class Workload:
    """What every contender has to answer."""

    model: str
    # Holds repositories: `none` with version 1 alone, `equal` and `heavy` with a version 2 that becomes its shadow.
    folder: Path
    rows: Array
    # ModelInferRequests of one row each, serialised, and the outputs that onnxruntime gives for them by name.
    requests: tuple[bytes, ...]
    answers: tuple[Mapping[str, Array], ...]

    def repository(self, shadow: str = "none") -> Path:
        """Returns a repository by the kind of its shadow."""
        return self.folder / shadow

    @property
    def file(self) -> Path:
        """The ONNX file of version 1."""
        return self.repository() / self.model / "1" / "model.onnx"

    def is_answered(self, address: str) -> bool:
        """Returns whether the first request is answered."""
        with grpc.insecure_channel(address) as channel:
            try:
                _infer(channel)(self.requests[0], timeout=5)
            except grpc.RpcError:
                return False
        return True

    def check(self, address: str, *, exact: bool) -> int:
        """Sends every request once and compares the answers; returns the bytes of one answer.

        Exact answers have the shape and the bits that onnxruntime gives here; others may come from another build of it
        and have dimensions of 1 more or less. Raises RuntimeError naming the first answer that is missing or wrong, and
        if answers differ in size.
        """
        with grpc.insecure_channel(address) as channel:
            infer = _infer(channel)
            try:
                received = [infer(request, timeout=30) for request in self.requests]
            except grpc.RpcError as error:
                raise RuntimeError(f"{address}: expected an answer, received {error}") from None
        for number, (message, expected) in enumerate(zip(received, self.answers, strict=True)):
            outputs = _outputs(pb.ModelInferResponse.FromString(message))
            for name, array in expected.items():
                if name not in outputs or not _agree(array, outputs[name], exact=exact):
                    shown = f"expected {array.tolist()}, received {outputs.get(name)}"
                    raise RuntimeError(f"{address}: row {number}, output {name!r}: {shown}")
        sizes = {len(message) for message in received}
        if len(sizes) > 1:
            raise RuntimeError(f"{address}: expected answers of one size, received {sorted(sizes)} bytes")
        return sizes.pop()


def prepare(model: str, folder: Path) -> Workload:
    """Makes a model and its shadows, and writes the repositories below a folder."""
    network = MODELS[model](0)
    shadows = {"none": None, "equal": MODELS[model](1).file, "heavy": repeated(network.file, HEAVY)}
    for kind, shadow in shadows.items():
        _write(network.file, folder / kind / model / "1")
        if shadow is not None:
            _write(shadow, folder / kind / model / "2")
    rows = [network.rows[index : index + 1] for index in range(len(network.rows))]
    answers = _answers(folder / "none" / model / "1" / "model.onnx", rows)
    return Workload(model, folder, network.rows, tuple(_request(model, row) for row in rows), answers)


def _write(file: onnx.ModelProto, folder: Path) -> None:
    folder.mkdir(parents=True)
    onnx.save(file, folder / "model.onnx")


def _infer(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
    return channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)


def _answers(file: Path, rows: Sequence[Array]) -> tuple[Mapping[str, Array], ...]:
    session = open_session(file)
    names = [output.name for output in session.get_outputs()]
    return tuple(dict(zip(names, session.run(names, {INPUT: row}), strict=True)) for row in rows)


def _agree(expected: Array, received: Array, *, exact: bool) -> bool:
    if exact:
        return np.array_equal(expected, received)
    return expected.size == received.size and np.allclose(expected.ravel(), received.ravel(), RTOL, ATOL)


def _request(model: str, row: Array) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name=INPUT, datatype="FP32", shape=row.shape)
    request.raw_input_contents.append(to_raw(row))
    return request.SerializeToString()


def _outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    tensors = zip(response.outputs, response.raw_output_contents, strict=True)
    return {tensor.name: from_raw(tensor.datatype, tuple(tensor.shape), raw) for tensor, raw in tensors}
