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
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.routing import RouteTable
from gnomon_server.serving.transport import Call, Methods, Stream, status_text

log = logging.getLogger(__name__)

# What one stream may have accepted whose answers are not sent: requests, and bytes of these and of their answers. Then
# it reads no more until its client does.
MOST_REQUESTS: Final = 128
MOST_BYTES: Final = 16 << 20
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

    def __init__(self, inferences: Inferences, observation: Observation, table: Callable[[], RouteTable]) -> None:
        """Takes how to find the routes of a moment."""
        self._inferences = inferences
        self._observation = observation
        self._table = table
        self._lines: set[_Line] = set()
        self._scheduled = False
        self._ended = False

    def methods(self, service: str) -> Methods:
        """Returns the method table."""
        return {f"{service}/ModelStreamInfer": Stream(self._infer)}

    def end(self) -> None:
        """Has every stream answer what it has taken and then end, since one that is idle would hold up the drain."""
        self._ended = True
        for line in self._lines:
            line.close()

    async def _infer(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        line = _Line(call, self._observation)
        strict = call.metadata(STRICT) == "true"
        self._lines.add(line)
        reader = asyncio.create_task(self._read(line, messages))
        try:
            while (request := await line.next()) is not None:
                if strict and request.error is not None:
                    raise request.error
                yield request.wrapped()
            if self._ended:
                raise NotReady("server is shutting down")
            await reader
        finally:
            self._lines.discard(line)
            line.abandon()
            reader.cancel()

    async def _read(self, line: _Line, messages: AsyncIterator[bytes]) -> None:
        try:
            async for message in messages:
                self._accept(line.put(message))
                if not await line.room():
                    break
        finally:
            line.close()

    def _accept(self, request: StreamedRequest) -> None:
        try:
            self._inferences.accept(request, self._table())
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
        self._inferences.after_pass()


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


class _Line:
    """The requests of one stream that were taken and whose answers were not, in their order."""

    def __init__(self, call: Call, observation: Observation) -> None:
        self.call = call
        self._observation = observation
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
        self._bytes += request.size
        return request

    def ended(self, request: StreamedRequest, status: str, size: int = 0) -> None:
        """Takes that a request has its answer, of `size` bytes."""
        request.size += size
        self._bytes += size
        self._observation.traced(request, status)
        self._moved.set()

    async def room(self) -> bool:
        """Waits until another request may come; returns False if none may any more."""
        while not self._closed and (len(self._requests) >= MOST_REQUESTS or self._bytes > MOST_BYTES):
            self._moved.clear()
            await self._moved.wait()
        return not self._closed

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
        self._moved.set()

    def abandon(self) -> None:
        """Takes that nobody waits for the rest: what has not begun to run will not."""
        for request in self._requests:
            request.ended = True

    def _take(self) -> StreamedRequest:
        request = self._requests.popleft()
        self._bytes -= request.size
        self._moved.set()
        return request
