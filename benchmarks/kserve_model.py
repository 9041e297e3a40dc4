"""An ONNX file behind KServe: `python kserve_model.py NAME MODEL.onnx --grpc_port=PORT --http_port=PORT`."""

from __future__ import annotations

import argparse
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from onnx_session import open_session

DATATYPES = {"float32": "FP32", "int64": "INT64"}


class Onnx(Model):  # type: ignore[misc]  # its package is in another environment
    """Runs one file."""

    def __init__(self, name: str, file: str) -> None:
        super().__init__(name)
        # A log line for every request is off, as KServe's manual advises for speed.
        self.enable_latency_logging = False
        self._session = open_session(file)
        self._names = [output.name for output in self._session.get_outputs()]
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any) -> InferResponse:
        """Runs one request on the event loop: a thread would cost more than the model does."""
        arrays = self._session.run(self._names, {tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        outputs = []
        for name, array in zip(self._names, arrays, strict=True):
            output = InferOutput(name, list(array.shape), DATATYPES[array.dtype.name])
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(payload.id or "", self.name, outputs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("name")
    parser.add_argument("file")
    arguments = parser.parse_args()
    ModelServer(http_port=arguments.http_port, grpc_port=arguments.grpc_port, workers=arguments.workers).start(
        [Onnx(arguments.name, arguments.file)]
    )
