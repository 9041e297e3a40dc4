"""Inference on a stream: any number of requests on one call, each with an answer or an error of its own."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Generic, TypeVar

from gnomon_client.errors import BY_STATUS, ClientError, Unknown
from gnomon_client.result import InferResult, read_result
from gnomon_protos import inference_pb2 as pb

Item = TypeVar("Item")

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"


class Requests(Generic[Item]):
    """The requests of a stream, made one by one as gRPC takes them.

    gRPC itself would turn whatever goes wrong in here into a status without a reason, so that it is kept instead: the
    stream ends, and the caller gets it once the answers to what came before are there.
    """

    def __init__(
        self, items: Iterable[Item] | AsyncIterable[Item], make: Callable[[Item], pb.ModelInferRequest]
    ) -> None:
        self._items = items
        self._make = make
        self._failure: Exception | None = None

    def check(self) -> None:
        """Raises what went wrong while a request was made."""
        if self._failure is not None:
            raise self._failure

    def __iter__(self) -> Iterator[pb.ModelInferRequest]:
        try:
            if isinstance(self._items, AsyncIterable):
                raise TypeError("expected inputs from an iterable, received an asynchronous one")
            for item in self._items:
                yield self._make(item)
        except Exception as error:  # noqa: BLE001 - raised by `check`
            self._failure = error

    async def __aiter__(self) -> AsyncIterator[pb.ModelInferRequest]:
        try:
            if isinstance(self._items, AsyncIterable):
                async for item in self._items:
                    yield self._make(item)
            else:
                for item in self._items:
                    yield self._make(item)
        except Exception as error:  # noqa: BLE001 - as above
            self._failure = error


def read_answer(message: pb.ModelStreamInferResponse) -> InferResult | ClientError:
    """Returns the result of one request, or its error: typed where the server names a status, as gnomon does."""
    if not message.error_message:
        return read_result(message.infer_response)
    status, _, text = message.error_message.partition(": ")
    return BY_STATUS[status](text) if status in BY_STATUS else Unknown(message.error_message)
