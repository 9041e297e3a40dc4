"""ModelStreamInfer: requests on a stream, each on the same way as a call of its own.

Answers leave in the order of their requests, as Triton's do for models that give one answer each. What is wrong with a
request is told in its answer and the stream goes on, unless the client asked for a status with `triton_grpc_error`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import GnomonError, Internal, InvalidRequest, NotReady
from gnomon_server.models import requests
from gnomon_server.serving.answers import varint
from gnomon_server.serving.inference import Inference
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.placing import Accept
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.transport import Call, Methods, Stream, status_text

log = logging.getLogger(__name__)

# What one stream may have accepted whose answers are not sent: requests, and bytes of these and of their answers. Then
# it reads no more until its client does. Above the bytes of all streams together, each takes one request at a time.
MOST_REQUESTS: Final = 128
MOST_BYTES: Final = 16 << 20
MOST_TOGETHER: Final = 256 << 20
# Metadata by which a client asks for the status of the first error in place of its text.
STRICT: Final = "triton_grpc_error"
# Says that a message is the last one for its request; appended to a response, it becomes a field of it.
FINAL: Final = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
# Tag of ModelStreamInferResponse.infer_response: field number << 3 | length-delimited.
INFER_RESPONSE: Final = b"\x12"


class Streams:
    """The streams of a frontend; belongs to its event loop."""

    def __init__(
        self,
        accept: Accept,
        after_pass: Callable[[], None],
        observation: Observation,
        table: Callable[[], RouteTable],
    ) -> None:
        """Takes what takes a request, what runs those that were taken, and how to find the routes of a moment."""
        self._take = accept
        self._after_pass = after_pass
        self._observation = observation
        self._table = table
        self._held = _Held()
        self._scheduled = False
        self._ended = False

    def methods(self, service: str) -> Methods:
        """Returns the method table."""
        return {f"{service}/ModelStreamInfer": Stream(self._infer)}

    def end(self) -> None:
        """Has every stream answer what it has taken and then end, since one that is idle would hold up the drain."""
        self._ended = True
        for line in self._held.lines:
            line.close()

    async def _infer(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        line = _Line(call, self._observation, self._held)
        strict = call.metadata(STRICT) == "true"
        self._held.lines.add(line)
        reader = asyncio.create_task(self._read(line, messages))
        try:
            while (request := await line.next()) is not None:
                if strict and request.error is not None:
                    raise request.error
                yield request.wrapped()
            if self._ended and not reader.done():
                raise NotReady("server is shutting down")
            await reader
        finally:
            self._held.lines.discard(line)
            line.abandon()
            reader.cancel()

    async def _read(self, line: _Line, messages: AsyncIterator[bytes]) -> None:
        try:
            async for message in messages:
                self._accept(line.put(message))
                await line.room()
        finally:
            line.close()

    def _accept(self, request: StreamedRequest) -> None:
        try:
            self._take(request, self._table())
        except GnomonError as error:
            request.fail(error)
        except Exception:
            log.exception("%s failed", request.method)
            request.fail(Internal("internal error"))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """Runs what streams have taken since the last time, together."""
        self._scheduled = False
        self._after_pass()


class StreamedRequest(Call):
    """One request of a stream, as the call that it would be by itself; a child of the stream in its trace."""

    def __init__(self, line: _Line, message: bytes) -> None:
        super().__init__(line.call.method, message)
        self._line = line
        # Bytes that it holds, its response among them.
        self.size = len(message)
        # How it ended; of the two, one.
        self.response: bytes | None = None
        self.error: GnomonError | None = None

    def metadata(self, key: str) -> str | None:
        """Returns the stream's metadata, but for the place in the trace."""
        return self._line.traceparent if key == "traceparent" else self._line.call.metadata(key)

    def peer(self) -> str:
        """Returns the stream's peer."""
        return self._line.call.peer()

    def time_remaining(self) -> float | None:
        """Returns the seconds until the stream's deadline."""
        return self._line.call.time_remaining()

    def answer(self, message: bytes) -> None:
        """Ends it with a response."""
        if not self.ended:
            self.ended, self.response = True, message
            self._line.ended(self, "OK", len(message))

    def fail(self, error: GnomonError) -> None:
        """Ends it with an error."""
        if not self.ended:
            self.ended, self.error = True, error
            self._line.ended(self, error.status)

    def wrapped(self) -> bytes:
        """Returns its serialised ModelStreamInferResponse."""
        if self.response is not None:
            return b"".join((INFER_RESPONSE, varint(len(self.response) + len(FINAL)), self.response, FINAL))
        error = self.error or Internal("internal error")
        response = pb.ModelInferResponse.FromString(FINAL)
        response.id = self._id()
        text = status_text(f"{error.status}: {error}")
        return pb.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()

    def _id(self) -> str:
        if isinstance(self.note, Inference):
            return self.note.id.decode()
        try:
            return requests.parse(self.message).id
        except InvalidRequest:
            return ""


class _Held:
    """What all streams of a frontend hold together."""

    def __init__(self) -> None:
        self.lines: set[_Line] = set()
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether it is so much that each stream may have one request only."""
        return self._bytes > MOST_TOGETHER

    def count(self, size: int) -> None:
        """Takes that bytes came or, below 0, went; wakes who waits for that."""
        before = self.full
        self._bytes += size
        if before and not self.full:
            for line in self.lines:
                line.wake()


class _Line:
    """The requests of one stream that were taken and whose answers were not, in their order."""

    def __init__(self, call: Call, observation: Observation, held: _Held) -> None:
        self.call = call
        self._observation = observation
        self._held = held
        self._requests: deque[StreamedRequest] = deque()
        self._bytes = 0
        self._moved = asyncio.Event()
        self._closed = False

    @property
    def traceparent(self) -> str:
        """The stream's own place in its trace, as a caller would name it."""
        trace = self._observation.trace(self.call)
        return f"00-{trace.trace_id.hex()}-{trace.span_id:016x}-{int(trace.sampled):02x}"

    def put(self, message: bytes) -> StreamedRequest:
        """Takes the next request."""
        request = StreamedRequest(self, message)
        self._requests.append(request)
        self._count(request.size)
        return request

    def ended(self, request: StreamedRequest, status: str, size: int = 0) -> None:
        """Takes that a request has its answer, of `size` bytes."""
        request.size += size
        self._count(size)
        self._observation.traced(request, status)
        self.wake()

    async def room(self) -> None:
        """Waits until another request may come; for ever, once none may."""
        while self._closed or self._full:
            self._moved.clear()
            await self._moved.wait()

    async def next(self) -> StreamedRequest | None:
        """Waits for the answer of the oldest request and takes it; returns None once there is none to come."""
        while self._requests or not self._closed:
            if self._requests and self._requests[0].ended:
                return self._take()
            self._moved.clear()
            await self._moved.wait()
        return None

    def close(self) -> None:
        """Takes that no more requests come."""
        self._closed = True
        self.wake()

    def abandon(self) -> None:
        """Takes that nobody waits for the rest: what has not begun to run will not."""
        for request in self._requests:
            request.ended = True
        self._count(-self._bytes)

    def wake(self) -> None:
        """Has those who wait look again."""
        self._moved.set()

    @property
    def _full(self) -> bool:
        many = len(self._requests) >= MOST_REQUESTS or self._bytes > MOST_BYTES
        return many or (self._held.full and bool(self._requests))

    def _count(self, size: int) -> None:
        self._bytes += size
        self._held.count(size)

    def _take(self) -> StreamedRequest:
        request = self._requests.popleft()
        self._count(-request.size)
        self.wake()
        return request
