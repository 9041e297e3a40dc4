"""What a server's repository holds."""

from __future__ import annotations

from dataclasses import dataclass

from gnomon_protos import inference_pb2 as pb


@dataclass(frozen=True)
class RepositoryEntry:
    """A version of a model in the repository."""

    model: str
    version: str
    # "READY", "UNAVAILABLE", "LOADING", "UNLOADING" or empty.
    state: str
    # Why it is not ready; empty if it is.
    reason: str


def read_index(message: pb.RepositoryIndexResponse) -> tuple[RepositoryEntry, ...]:
    """Returns the message as values."""
    return tuple(RepositoryEntry(one.name, one.version, one.state, one.reason) for one in message.models)
