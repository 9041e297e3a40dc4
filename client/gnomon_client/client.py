"""The synchronous client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gnomon_client import calls
from gnomon_client.configuration import ModelConfig
from gnomon_client.connection import Connection, target_of
from gnomon_client.errors import ClientError, InvalidArgument
from gnomon_client.headers import Metadata
from gnomon_client.metadata import ModelMetadata, ServerMetadata
from gnomon_client.repository import RepositoryEntry
from gnomon_client.request import infer_request
from gnomon_client.result import InferResult, Parameter
from gnomon_client.retries import DEFAULT_RETRIES, Attempts, Retries
from gnomon_client.statistics import ModelStatistics
from gnomon_client.streaming import Requests
from gnomon_client.tls import Tls

if TYPE_CHECKING:
    from gnomon_client.inputs import Inputs


class Client:
    """Calls a server of the Open Inference Protocol, version 2; may be used by several threads.

    Every method takes `timeout`, the seconds for all of its attempts together (None: the client's own `timeout`), and
    `metadata`, sent beside the client's own; it raises the ClientError of the call's status.

        with Client("localhost:8001") as client:
            result = client.infer("churn", {"age": [31, 45], "plan": ["basic", "plus"]})
            print(result["probabilities"], result.version)
    """

    def __init__(
        self,
        address: str = "localhost:8001",
        *,
        timeout: float | None = 10.0,
        tls: Tls | None = None,
        retries: Retries = DEFAULT_RETRIES,
        metadata: Metadata | None = None,
    ) -> None:
        self._connection = Connection(target_of(address, timeout, tls, retries, metadata))
        # What models declare, by model and version as asked for.
        self._declared: dict[tuple[str, str], ModelMetadata] = {}

    def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str | int = "",
        outputs: Sequence[str] | None = None,
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> InferResult:
        """Returns the outputs of a model for `inputs`.

        `inputs` is an array or a (nested) list for a model with one input, a mapping of input names to arrays or
        lists, or a pandas DataFrame: its columns by name, or side by side for a model with one two-dimensional input.
        Values are cast to the declared datatypes where nothing is lost unseen (see gnomon_client.casting); missing
        numbers in a DataFrame become NaN, missing text is an error. An empty `version` leaves the choice to the
        server; `outputs` of None means all. What a model declares is asked for once and kept.

        Raises InputError, before anything is sent, for inputs that the model does not declare or that cannot be cast.
        """
        attempts = self._connection.target.attempts(timeout)
        key = (model, str(version))
        declared = self._declared.get(key) or self._declare(key, attempts, metadata)
        request = infer_request(declared, inputs, key[1], outputs, request_id, parameters)
        try:
            return self._connection.run(calls.model_infer(request), attempts, metadata)
        except InvalidArgument:
            # The model may declare something else by now, after a promotion; the next call asks anew.
            self._declared.pop(key, None)
            raise

    def stream_infer(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        version: str | int = "",
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Iterator[InferResult | ClientError]:
        """Yields one answer for each of many `inputs`, in their order: its result, or the error of that request alone.

        All of them travel on one stream and are taken from `inputs` as the server takes them, so that many are under
        way at a time. Each of the inputs is as in `infer`. Here `timeout` is for the whole stream and None is for ever;
        a stream is not tried again.

        Raises the ClientError of the stream's own status, and, after the answers to all inputs before it, InputError
        for inputs that cannot be sent or whatever `inputs` itself raised.
        """
        key = (model, str(version))
        declared = self._declared.get(key) or self._declare(key, self._connection.target.attempts(None), metadata)
        requests = Requests(inputs, lambda one: infer_request(declared, one, key[1], outputs, "", parameters))
        return self._connection.stream(requests, timeout, metadata)

    def live(self, *, timeout: float | None = None, metadata: Metadata | None = None) -> bool:
        """Returns whether the server process is up."""
        return self._connection.run(calls.server_live(), self._connection.target.attempts(timeout), metadata)

    def ready(self, *, timeout: float | None = None, metadata: Metadata | None = None) -> bool:
        """Returns whether every model can answer."""
        return self._connection.run(calls.server_ready(), self._connection.target.attempts(timeout), metadata)

    def model_ready(
        self, model: str, version: str | int = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> bool:
        """Returns whether a model, or one version of it, can answer; False if it does not exist."""
        call = calls.model_ready(model, str(version))
        return self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    def server_metadata(self, *, timeout: float | None = None, metadata: Metadata | None = None) -> ServerMetadata:
        """Returns the server's name, version and extensions."""
        return self._connection.run(calls.server_metadata(), self._connection.target.attempts(timeout), metadata)

    def model_metadata(
        self, model: str, version: str | int = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ModelMetadata:
        """Returns a model's tensors as the server declares them now; infer uses this answer from here on."""
        return self._declare((model, str(version)), self._connection.target.attempts(timeout), metadata)

    def model_config(
        self, model: str, version: str | int = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ModelConfig:
        """Returns how the server runs a model."""
        call = calls.model_config(model, str(version))
        return self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    def statistics(
        self,
        model: str = "",
        version: str | int = "",
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> tuple[ModelStatistics, ...]:
        """Returns what each version has done: all of the server's, those of one model, or one."""
        call = calls.model_statistics(model, str(version))
        return self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    def repository_index(
        self, *, ready: bool = False, timeout: float | None = None, metadata: Metadata | None = None
    ) -> tuple[RepositoryEntry, ...]:
        """Returns the versions in the repository, or with `ready` those alone that can answer."""
        call = calls.repository_index(ready)
        return self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    def load_model(self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None) -> None:
        """Has the server load a model, and waits until it answers; PermissionDenied unless the server allows it."""
        self._connection.run(calls.load_model(model), self._connection.target.attempts(timeout), metadata)

    def unload_model(self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None) -> None:
        """Has the server unload a model, so that it answers nothing; PermissionDenied unless the server allows it."""
        self._connection.run(calls.unload_model(model), self._connection.target.attempts(timeout), metadata)

    def close(self) -> None:
        """Ends the connection; calls in flight fail with Cancelled."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _declare(self, key: tuple[str, str], attempts: Attempts, metadata: Metadata | None) -> ModelMetadata:
        declared = self._connection.run(calls.model_metadata(*key), attempts, metadata)
        self._declared[key] = declared
        return declared
