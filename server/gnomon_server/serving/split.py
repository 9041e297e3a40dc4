"""The split of a model's requests: which of them its canary answers."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon_server.models.servable import Servable
from gnomon_server.serving.selection import position, selected
from gnomon_server.serving.transport import Call


@dataclass(frozen=True, eq=False)
class Split:
    """One model's canary in one route table."""

    canary: Servable
    # Share of the requests, in (0, 1].
    weight: float
    # Of the metadata by which a request keeps its side; empty: none.
    key: str

    def takes(self, call: Call, request_id: bytes) -> bool:
        """Whether the canary answers a request, by its metadata, or else its id (UTF-8), or else its bytes."""
        key = call.metadata(self.key) if self.key else None
        # Not the sampling's own purpose: the canary would take just those requests that are mirrored. And not the same
        # for all versions: the same callers would be the first every time.
        purpose = f"canary {self.canary.version}".encode()
        return selected(position(key or request_id.decode(), call.message, purpose), self.weight)
