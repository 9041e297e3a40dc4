"""A connection to one server: runs calls with their deadline, retries, metadata and typed errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from gnomon_client.calls import Call, Result
from gnomon_client.errors import ClientError, FailedPrecondition, Unavailable, Unknown, error_of
from gnomon_client.headers import Headers, Metadata, checked, injector, with_context
from gnomon_client.result import InferResult
from gnomon_client.retries import Attempts, Retries
from gnomon_client.streaming import PATH as STREAM
from gnomon_client.streaming import Requests, read_answer
from gnomon_client.tls import Tls, credentials
from gnomon_protos import inference_pb2 as pb

# gRPC takes at most 4 MiB by default; protobuf itself ends at 2 GiB.
_LARGEST: Final = (1 << 31) - 1
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _LARGEST),
    ("grpc.max_send_message_length", _LARGEST),
    # As short as the first retries' pauses, which would otherwise all fall into one back-off of the channel.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
# What grpc.aio says of a write to a stream that the server has ended, in place of how the server ended it.
_WRITE_FAILED: Final = "Internal error from Core"


@dataclass(frozen=True)
class Target:
    """Which server, and what holds for every call to it."""

    address: str
    credentials: grpc.ChannelCredentials | None
    # Seconds for one call of the user, retries included; None: no deadline.
    timeout: float | None
    retries: Retries
    headers: Headers
    inject: Callable[[dict[str, str]], None] | None

    def attempts(self, timeout: float | None) -> Attempts:
        """Returns the time and the retries of one call; a timeout of None means the target's own."""
        return Attempts(self.retries, self.timeout if timeout is None else timeout)

    def headers_of(self, metadata: Metadata | None) -> Headers:
        """Returns what a call carries: the target's and the call's own metadata, and the current trace context."""
        own = checked(metadata)
        replaced = {key for key, _ in own}
        kept = tuple((key, value) for key, value in self.headers if key not in replaced)
        return with_context(kept + own, self.inject)


def target_of(
    address: str, timeout: float | None, tls: Tls | None, retries: Retries, metadata: Metadata | None
) -> Target:
    """Returns a checked target; raises InputError for TLS files, a timeout or metadata that cannot be used."""
    target = Target(address, credentials(tls) if tls else None, timeout, retries, checked(metadata), injector())
    target.attempts(None)
    return target


class Connection:
    """A synchronous channel; may be used by several threads."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._closed = False
        self._methods: dict[str, Callable[..., Any]] = {}
        if target.credentials is None:
            self._channel = grpc.insecure_channel(target.address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(target.address, target.credentials, _OPTIONS)

    def run(self, call: Call[Result], attempts: Attempts, metadata: Metadata | None = None) -> Result:
        """Returns what the call reads from its answer; raises the ClientError of its status."""
        if self._closed:
            raise _closed_error(self.target)
        send = self._methods.get(call.path) or self._prepared(call)
        headers = self.target.headers_of(metadata)
        while True:
            try:
                return call.read(send(call.request, timeout=attempts.remaining(), metadata=headers))
            except grpc.RpcError as error:
                failure = _failure_of(error, self.target)
            pause = _pause_after(failure, call, attempts)
            if pause is None:
                raise failure
            time.sleep(pause)

    def stream(
        self, requests: Requests[Any], timeout: float | None, metadata: Metadata | None
    ) -> Iterator[InferResult | ClientError]:
        """Yields the answer to each request; raises the ClientError of the stream's own status.

        To stop iterating cancels the RPC.
        """
        if self._closed:
            raise _closed_error(self.target)
        begin: Any = self._channel.stream_stream(STREAM, _serialized, pb.ModelStreamInferResponse.FromString)
        call = begin(iter(requests), timeout=timeout, metadata=self.target.headers_of(metadata))
        try:
            for message in call:
                yield read_answer(message)
        except grpc.RpcError as error:
            raise _failure_of(error, self.target) from None
        finally:
            call.cancel()
        requests.check()

    def close(self) -> None:
        """Ends the connection; calls in flight fail with Cancelled."""
        self._closed = True
        self._channel.close()

    def _prepared(self, call: Call[Any]) -> Callable[..., Any]:
        method = self._channel.unary_unary(call.path, _serialized, call.answer.FromString)
        self._methods[call.path] = method
        return method


class AsyncConnection:
    """An asynchronous channel; belongs to the event loop of its first call."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._closed = False
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}

    async def run(self, call: Call[Result], attempts: Attempts, metadata: Metadata | None = None) -> Result:
        """Returns what the call reads from its answer; raises the ClientError of its status.

        Cancelling the caller's task cancels the RPC.
        """
        if self._closed:
            raise _closed_error(self.target)
        send = self._methods.get(call.path) or self._prepared(call)
        headers = self.target.headers_of(metadata)
        while True:
            try:
                return call.read(await send(call.request, timeout=attempts.remaining(), metadata=headers))
            except grpc.RpcError as error:
                failure = _failure_of(error, self.target)
            pause = _pause_after(failure, call, attempts)
            if pause is None:
                raise failure
            await asyncio.sleep(pause)

    async def stream(
        self, requests: Requests[Any], timeout: float | None, metadata: Metadata | None
    ) -> AsyncGenerator[InferResult | ClientError, None]:
        """Yields the answer to each request; raises the ClientError of the stream's own status.

        To stop iterating cancels the RPC.
        """
        if self._closed:
            raise _closed_error(self.target)
        begin: Any = self._opened().stream_stream(STREAM, _serialized, pb.ModelStreamInferResponse.FromString)
        call = begin(aiter(requests), timeout=timeout, metadata=self.target.headers_of(metadata))
        try:
            async for message in call:
                yield read_answer(message)
        except grpc.aio.AioRpcError as error:
            if error.details() == _WRITE_FAILED:
                text = "the server ended the stream while a request was on its way, and grpc.aio does not say how"
                raise Unknown(text) from None
            raise _failure_of(error, self.target) from None
        finally:
            call.cancel()
        requests.check()

    async def close(self) -> None:
        """Ends the connection; calls in flight are cancelled."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    def _prepared(self, call: Call[Any]) -> Callable[..., Any]:
        method = self._opened().unary_unary(call.path, _serialized, call.answer.FromString)
        self._methods[call.path] = method
        return method

    def _opened(self) -> grpc.aio.Channel:
        # Made here and not in __init__, which may run before there is an event loop.
        if self._channel is None:
            address, secret = self.target.address, self.target.credentials
            self._channel = (
                grpc.aio.insecure_channel(address, _OPTIONS)
                if secret is None
                else grpc.aio.secure_channel(address, secret, _OPTIONS)
            )
        return self._channel


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _pause_after(failure: ClientError, call: Call[Any], attempts: Attempts) -> float | None:
    return attempts.pause() if isinstance(failure, Unavailable) and call.repeatable else None


def _failure_of(error: grpc.RpcError, target: Target) -> ClientError:
    # Every RpcError of a unary call is a grpc.Call or an AioRpcError; both have these two, the base class has none.
    code: grpc.StatusCode = getattr(error, "code")()  # noqa: B009
    details: str = getattr(error, "details")() or ""  # noqa: B009
    return error_of(code.name, in_own_words(code, details, target.address))


def in_own_words(code: grpc.StatusCode, details: str, address: str) -> str:
    """Returns the details with what gRPC itself says of a server that does not answer put first in a user's terms."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == "Deadline Exceeded":
        return f"{address}: expected an answer in time, received none"
    no_server = ("failed to connect", "DNS resolution failed", "errors resolving", "Socket closed")
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(no_server):
        return f"{address}: expected a server, received no connection ({details})"
    return details


def _closed_error(target: Target) -> ClientError:
    return FailedPrecondition(f"{target.address}: expected an open client, received a call after close")
