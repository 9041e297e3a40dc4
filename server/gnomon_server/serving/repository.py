"""The repository as clients see and change it: Triton's RepositoryIndex, RepositoryModelLoad, RepositoryModelUnload.

Roles stay what control made them: to load is to look at the repository at once and to wait until a model answers, to
unload is to have it answer nothing until it is loaded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import Forbidden, InvalidRequest, NotOffered, quoted
from gnomon_server.models.lifecycle import LOADING, READY
from gnomon_server.serving.methods import asking
from gnomon_server.serving.questions import Questions
from gnomon_server.serving.transport import Call, Methods
from gnomon_server.wire.questions import Index, IndexWanted, ListedVersion, LoadWanted, UnloadWanted

# Parameters with which Triton takes a model from the request.
FROM_REQUEST: Final = ("config", "file:")
ANSWERING: Final = ("primary", "canary", "previous", "named")

Change = pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest


class Repository:
    """Asks control, which alone knows and changes the repository."""

    def __init__(self, questions: Questions, allowed: bool) -> None:
        """Takes whether clients may change what is loaded."""
        self._questions = questions
        self._allowed = allowed

    def methods(self, service: str) -> Methods:
        """Returns the method table."""
        return {
            f"{service}/RepositoryIndex": asking(pb.RepositoryIndexRequest, self._index),
            f"{service}/RepositoryModelLoad": asking(pb.RepositoryModelLoadRequest, self._load),
            f"{service}/RepositoryModelUnload": asking(pb.RepositoryModelUnloadRequest, self._unload),
        }

    def _index(self, call: Call, request: pb.RepositoryIndexRequest) -> None:
        if request.repository_name:
            raise _no_repositories()
        self._questions.ask(call, IndexWanted(), lambda given: index(given, ready=request.ready))

    def _load(self, call: Call, request: pb.RepositoryModelLoadRequest) -> None:
        self._check(request)
        for name in request.parameters:
            if name.startswith(FROM_REQUEST):
                raise NotOffered(f"parameter {quoted(name)}: models from requests are not offered")
            raise InvalidRequest(f"parameter {quoted(name)}: expected none, received {quoted(name)}")
        wanted = LoadWanted(request.model_name, call.peer())
        self._questions.ask(call, wanted, lambda _: pb.RepositoryModelLoadResponse())

    def _unload(self, call: Call, request: pb.RepositoryModelUnloadRequest) -> None:
        self._check(request)
        _check_unload_parameters(request.parameters)
        wanted = UnloadWanted(request.model_name, call.peer())
        self._questions.ask(call, wanted, lambda _: pb.RepositoryModelUnloadResponse())

    def _check(self, request: Change) -> None:
        if not self._allowed:
            raise Forbidden("models follow the repository: expected the setting repository_control = true")
        if request.model_name:
            if request.repository_name:
                raise _no_repositories()
        elif request.repository_name:
            received = "received it in field 1: KServe dialect?"
            raise InvalidRequest(f"expected the name in model_name (field 2), {received}")
        else:
            raise InvalidRequest("model name is empty")


def index(given: Index, *, ready: bool) -> pb.RepositoryIndexResponse:
    """Returns what is in the repository; READY is what answers requests."""
    made = [_indexed(version) for version in given.versions]
    return pb.RepositoryIndexResponse(models=[one for one in made if one.state == "READY" or not ready])


def _indexed(version: ListedVersion) -> pb.RepositoryIndexResponse.ModelIndex:
    state, reason = "UNAVAILABLE", version.reason or "unloaded"
    if version.role in ANSWERING and version.state == READY:
        state, reason = "READY", ""
    elif version.role in ANSWERING and version.state == LOADING:
        state, reason = "LOADING", ""
    elif version.role == "shadow" and version.state in (LOADING, READY):
        reason = "shadow: gets copies of requests and answers none"
    return pb.RepositoryIndexResponse.ModelIndex(
        name=version.model, version=str(version.version), state=state, reason=reason
    )


def _check_unload_parameters(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> None:
    for name, parameter in parameters.items():
        # No model here depends on another, so that either value is honoured.
        if name != "unload_dependents":
            raise InvalidRequest(f"parameter {quoted(name)}: expected 'unload_dependents', received {quoted(name)}")
        field = parameter.WhichOneof("parameter_choice")
        if field != "bool_param":
            raise InvalidRequest(f"parameter 'unload_dependents': expected bool_param, received {field or 'nothing'}")


def _no_repositories() -> NotOffered:
    return NotOffered("repository_name: expected none, as there is one repository without a name")
