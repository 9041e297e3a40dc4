"""One inference: a request that was accepted, on its way through a run."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon_protos import inference_pb2 as pb
from gnomon_server.models.servable import Servable
from gnomon_server.serving.routing import ModelRoute
from gnomon_server.serving.transport import Call


@dataclass(slots=True)
class Inference:
    """What is needed to answer, count and mirror a request."""

    call: Call
    # UTF-8.
    id: bytes
    route: ModelRoute
    servable: Servable
    outputs: tuple[str, ...]
    # Set where the answer depends on more of the request than its id.
    request: pb.ModelInferRequest | None = None

    @property
    def primary(self) -> bool:
        """Whether the primary answers, so that the request may be mirrored."""
        return self.servable is self.route.primary

    @property
    def role(self) -> str:
        """The role of the version that answers."""
        return "primary" if self.primary else "previous"
