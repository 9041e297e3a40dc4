"""An ONNX file behind MLServer: a model class, imported by MLServer in an environment of its own."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_session import open_session


class Onnx(MLModel):  # type: ignore[misc]  # its package is in another environment
    """Runs the file that `uri` names."""

    async def load(self) -> bool:
        """Opens the session."""
        self._session = open_session(self.settings.parameters.uri)
        self._names = [output.name for output in self._session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs one request on the event loop: a thread would cost more than the model does."""
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        arrays = self._session.run(self._names, inputs)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in zip(self._names, arrays, strict=True)]
        # One id for all, so that answers have one size.
        return InferenceResponse(model_name=self.name, id="", outputs=outputs)
