"""The asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gnomon_client import calls
from gnomon_client.configuration import ModelConfig
from gnomon_client.connection import AsyncConnection, target_of
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


class AsyncClient:
    """Client for asyncio, method for method; belongs to the event loop of its first call.

    async with AsyncClient("localhost:8001") as client:
        result = await client.infer("churn", {"age": [31, 45], "plan": ["basic", "plus"]})
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
        self._connection = AsyncConnection(target_of(address, timeout, tls, retries, metadata))
        # What models declare, by model and version as asked for.
        self._declared: dict[tuple[str, str], ModelMetadata] = {}

    async def infer(
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
        """Returns the outputs of a model for `inputs`, as Client.infer does."""
        attempts = self._connection.target.attempts(timeout)
        key = (model, str(version))
        declared = self._declared.get(key) or await self._declare(key, attempts, metadata)
        request = infer_request(declared, inputs, key[1], outputs, request_id, parameters)
        try:
            return await self._connection.run(calls.model_infer(request), attempts, metadata)
        except InvalidArgument:
            # The model may declare something else by now, after a promotion; the next call asks anew.
            self._declared.pop(key, None)
            raise

    async def stream_infer(
        self,
        model: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        version: str | int = "",
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncGenerator[InferResult | ClientError, None]:
        """Yields one answer for each of many `inputs`, as Client.stream_infer does."""
        key = (model, str(version))
        declared = self._declared.get(key) or await self._declare(key, self._connection.target.attempts(None), metadata)
        requests = Requests(inputs, lambda one: infer_request(declared, one, key[1], outputs, "", parameters))
        async with aclosing(self._connection.stream(requests, timeout, metadata)) as answers:
            async for answer in answers:
                yield answer

    async def live(self, *, timeout: float | None = None, metadata: Metadata | None = None) -> bool:
        """Returns whether the server process is up."""
        return await self._connection.run(calls.server_live(), self._connection.target.attempts(timeout), metadata)

    async def ready(self, *, timeout: float | None = None, metadata: Metadata | None = None) -> bool:
        """Returns whether every model can answer."""
        return await self._connection.run(calls.server_ready(), self._connection.target.attempts(timeout), metadata)

    async def model_ready(
        self, model: str, version: str | int = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> bool:
        """Returns whether a model, or one version of it, can answer; False if it does not exist."""
        call = calls.model_ready(model, str(version))
        return await self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    async def server_metadata(
        self, *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ServerMetadata:
        """Returns the server's name, version and extensions."""
        return await self._connection.run(calls.server_metadata(), self._connection.target.attempts(timeout), metadata)

    async def model_metadata(
        self, model: str, version: str | int = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ModelMetadata:
        """Returns a model's tensors as the server declares them now; infer uses this answer from here on."""
        return await self._declare((model, str(version)), self._connection.target.attempts(timeout), metadata)

    async def model_config(
        self, model: str, version: str | int = "", *, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ModelConfig:
        """Returns how the server runs a model."""
        call = calls.model_config(model, str(version))
        return await self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    async def statistics(
        self,
        model: str = "",
        version: str | int = "",
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> tuple[ModelStatistics, ...]:
        """Returns what each version has done: all of the server's, those of one model, or one."""
        call = calls.model_statistics(model, str(version))
        return await self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    async def repository_index(
        self, *, ready: bool = False, timeout: float | None = None, metadata: Metadata | None = None
    ) -> tuple[RepositoryEntry, ...]:
        """Returns the versions in the repository, or with `ready` those alone that can answer."""
        call = calls.repository_index(ready)
        return await self._connection.run(call, self._connection.target.attempts(timeout), metadata)

    async def load_model(self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None) -> None:
        """Has the server load a model, and waits until it answers; PermissionDenied unless the server allows it."""
        await self._connection.run(calls.load_model(model), self._connection.target.attempts(timeout), metadata)

    async def unload_model(self, model: str, *, timeout: float | None = None, metadata: Metadata | None = None) -> None:
        """Has the server unload a model, so that it answers nothing; PermissionDenied unless the server allows it."""
        await self._connection.run(calls.unload_model(model), self._connection.target.attempts(timeout), metadata)

    async def close(self) -> None:
        """Ends the connection; calls in flight are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _declare(self, key: tuple[str, str], attempts: Attempts, metadata: Metadata | None) -> ModelMetadata:
        declared = await self._connection.run(calls.model_metadata(*key), attempts, metadata)
        self._declared[key] = declared
        return declared
