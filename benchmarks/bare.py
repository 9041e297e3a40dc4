"""A bare grpcio server: `python benchmarks/bare.py threads|asyncio MODEL.onnx PORT`.

What one writes in an afternoon around onnxruntime: it takes raw FP32 contents on trust, checks nothing, counts nothing,
and gives every output back raw. It serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from onnx_session import open_session

from gnomon_protos import inference_pb2 as pb

THREADS: Final = 8
DATATYPES: Final = {"float32": "FP32", "int64": "INT64"}


class Model:
    """Answers requests for one ONNX file."""

    def __init__(self, file: Path) -> None:
        self._session = open_session(file)
        self._input = self._session.get_inputs()[0].name
        self._names = [output.name for output in self._session.get_outputs()]

    def answer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Runs one request."""
        row = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        for name, output in zip(self._names, self._session.run(self._names, {self._input: row}), strict=True):
            response.outputs.add(name=name, datatype=DATATYPES[output.dtype.name], shape=output.shape)
            response.raw_output_contents.append(output.tobytes())
        return response


def serve_threads(model: Model, port: str) -> None:
    """Serves on threads."""
    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_generic_rpc_handlers((_handler(lambda request, _: model.answer(request)),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


async def serve_asyncio(model: Model, port: str) -> None:
    """Serves on an event loop, where the model runs too: a thread hop would cost more than it."""

    async def infer(request: pb.ModelInferRequest, _: Any) -> pb.ModelInferResponse:
        return model.answer(request)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handler(infer),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _handler(infer: Callable[[pb.ModelInferRequest, Any], Any]) -> grpc.GenericRpcHandler:
    """Returns what generated code makes of a servicer with one method."""
    method = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": method})


if __name__ == "__main__":
    if sys.argv[1] == "threads":
        serve_threads(Model(Path(sys.argv[2])), sys.argv[3])
    else:
        asyncio.run(serve_asyncio(Model(Path(sys.argv[2])), sys.argv[3]))
