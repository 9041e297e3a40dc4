"""The workload: one model in two versions, requests for it, and the right answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array, from_raw, to_raw

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
SAMPLE: Final = 64


def _logreg() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000)


def _boosting() -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=100)


# To add a model: a function that returns an untrained scikit-learn classifier, and a line here.
MODELS: Final[Mapping[str, Callable[[], Any]]] = {"logreg": _logreg, "boosting": _boosting}


@dataclass(frozen=True)
class Workload:
    """What every contender has to answer."""

    model: str
    # Repositories with version 1, and with version 1 and a second one that becomes its shadow.
    plain: Path
    mirrored: Path
    # ModelInferRequests of one row each, serialised, and the outputs that onnxruntime gives for them by name.
    requests: tuple[bytes, ...]
    answers: tuple[Mapping[str, Array], ...]

    @property
    def file(self) -> Path:
        """The ONNX file of version 1."""
        return self.plain / self.model / "1" / "model.onnx"

    def check(self, address: str) -> int:
        """Sends every request once and compares the answers bit for bit; returns the bytes of one answer.

        Raises RuntimeError naming the first answer that is missing, wrong, or of another size.
        """
        received = _call(address, self.requests)
        for number, (message, expected) in enumerate(zip(received, self.answers, strict=True)):
            outputs = _outputs(pb.ModelInferResponse.FromString(message))
            for name, array in expected.items():
                if name not in outputs or not np.array_equal(array, outputs[name]):
                    shown = f"expected {array.tolist()}, received {outputs.get(name)}"
                    raise RuntimeError(f"{address}: row {number}, output {name!r}: {shown}")
        sizes = {len(message) for message in received}
        if len(sizes) > 1:
            raise RuntimeError(f"{address}: expected answers of one size, received {sorted(sizes)} bytes")
        return sizes.pop()


def prepare(model: str, folder: Path) -> Workload:
    """Trains both versions of a model, converts them, and writes the repositories below a folder."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from gnomon_converters import publish

    # 569 rows of 30 numbers, two classes.
    x, y = load_breast_cancer(return_X_y=True)
    x = x.astype(np.float32)
    plain, mirrored = folder / "plain", folder / "mirrored"
    first = make_pipeline(StandardScaler(), MODELS[model]()).fit(x[:400], y[:400])
    second = make_pipeline(StandardScaler(), MODELS[model]()).fit(x[100:500], y[100:500])
    for repository, versions in ((plain, (first,)), (mirrored, (first, second))):
        for version in versions:
            publish(version, name=model, repository=repository, sample=x[400:])
    rows = [x[index : index + 1] for index in range(SAMPLE)]
    answers = _answers(plain / model / "1" / "model.onnx", rows)
    return Workload(model, plain, mirrored, tuple(_request(model, row) for row in rows), answers)


def open_session(file: Path) -> Any:
    """Returns an onnxruntime session set up for small models: one thread, which never spins."""
    # onnxruntime reports home from 1.29 on unless this is set before its import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _call(address: str, requests: Sequence[bytes]) -> list[bytes]:
    with grpc.insecure_channel(address) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            METHOD, request_serializer=None, response_deserializer=None
        )
        try:
            return [infer(request, timeout=30) for request in requests]
        except grpc.RpcError as error:
            raise RuntimeError(f"{address}: expected an answer, received {error}") from None


def _answers(file: Path, rows: list[Array]) -> tuple[Mapping[str, Array], ...]:
    session = open_session(file)
    names = [output.name for output in session.get_outputs()]
    return tuple(dict(zip(names, session.run(names, {"input": row}), strict=True)) for row in rows)


def _request(model: str, row: Array) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="input", datatype="FP32", shape=row.shape)
    request.raw_input_contents.append(to_raw(row))
    return request.SerializeToString()


def _outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    tensors = zip(response.outputs, response.raw_output_contents, strict=True)
    return {tensor.name: from_raw(tensor.datatype, tuple(tensor.shape), raw) for tensor, raw in tensors}
