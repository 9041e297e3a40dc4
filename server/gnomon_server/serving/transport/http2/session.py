"""One gRPC connection without I/O: bytes in, arrivals out; answers in, bytes out.

ngh2 speaks HTTP/2; this module speaks gRPC over it (doc/PROTOCOL-HTTP2.md of grpc/grpc). It knows neither sockets nor
clocks nor handlers, only which methods take exactly one message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

import ngh2

from gnomon_server.errors import Exhausted, GnomonError, Internal, InvalidRequest, NotOffered
from gnomon_server.serving.transport import Pairs
from gnomon_server.serving.transport.http2.framing import ENCODINGS, PREFIX, Assembler, frame, unknown_encoding
from gnomon_server.serving.transport.http2.metadata import STATUS, outgoing, percent_encoded, timeout_seconds

Headers = tuple[tuple[bytes, bytes], ...]

CONTENT_TYPE: Final = b"application/grpc"
OPENING: Final = [
    (b":status", b"200"),
    (b"content-type", CONTENT_TYPE),
    (b"grpc-accept-encoding", b",".join(ENCODINGS)),
]
SUCCESS: Final = [(b"grpc-status", b"0")]
# Bytes of incomplete requests that one connection may hold, as a multiple of the largest message.
MOST_HELD: Final = 2
# Window of each stream and of the connection, in bytes: one large message flows without waiting for every ack.
STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 8 << 20


@dataclass(frozen=True)
class Limits:
    """What one connection may ask for."""

    message_bytes: int = 64 << 20
    streams: int = 1000
    header_bytes: int = 16 << 10
    # PINGs without a call in between: burst, as grpc-core's server allows two strikes.
    pings: int = 100


class Whole(NamedTuple):
    """A unary request, complete."""

    stream: int
    headers: Headers
    path: str
    timeout: float | None
    message: bytes


class Opened(NamedTuple):
    """A call of any other method began."""

    stream: int
    headers: Headers
    path: str
    timeout: float | None


class Message(NamedTuple):
    """A message on an opened call; `size` bytes of flow control are due once it has been consumed."""

    stream: int
    message: bytes
    size: int


class HalfClosed(NamedTuple):
    """The client has sent all its messages on an opened call."""

    stream: int


class Cancelled(NamedTuple):
    """A call that had begun is over: the client gave it up, or broke a rule and was answered; answers go nowhere."""

    stream: int
    status: str = "CANCELLED"


class Refused(NamedTuple):
    """A call that the session has answered itself."""

    headers: Headers
    path: str
    status: str


Arrival = Whole | Opened | Message | HalfClosed | Cancelled | Refused


class _Stream:
    """What is known of one open stream."""

    __slots__ = ("answered", "assembler", "begun", "ended", "headers", "message", "path", "timeout", "unary")

    def __init__(self, headers: Headers, path: str, timeout: float | None, unary: bool) -> None:
        self.headers, self.path, self.timeout, self.unary = headers, path, timeout, unary
        self.assembler: Assembler | None = None
        self.message: bytes | None = None
        # The client has sent everything; the call was handed over; response headers have gone out.
        self.ended = False
        self.begun = False
        self.answered = False


class Session:
    """The server's end of one connection; belongs to one thread."""

    def __init__(self, unary: Collection[str], limits: Limits) -> None:
        """Takes the paths ("/package.Service/Method") of methods that take exactly one message."""
        self._unary = unary
        self._limits = limits
        self._streams: dict[int, _Stream] = {}
        self._held = 0
        self._pings = 0
        configuration = ngh2.Configuration(auto_window_update=False, max_inbound_header_list_size=limits.header_bytes)
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, configuration)
        self._http2.initiate_connection(
            {
                ngh2.Setting.MAX_CONCURRENT_STREAMS: limits.streams,
                ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                ngh2.Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            }
        )
        self._http2.set_local_window_size(CONNECTION_WINDOW)
        # Whether the connection must be closed once its bytes are out.
        self.broken = False

    @property
    def calls(self) -> int:
        """Calls that have no final answer yet."""
        return len(self._streams)

    def receive(self, data: bytes) -> list[Arrival]:
        """Takes bytes from the client; returns what arrived with them, in order. Never raises."""
        arrivals: list[Arrival] = []
        try:
            self._http2.receive_data(data)
        except ngh2.NGH2Error:
            self.broken = True
        if not self._http2.want_read:
            self.broken = True
        for event in self._http2.events():
            if isinstance(event, ngh2.DataReceived):
                self._data(event, arrivals)
            elif isinstance(event, ngh2.RequestReceived):
                self._request(event, arrivals)
            elif isinstance(event, (ngh2.StreamReset, ngh2.StreamClosed)):
                self._closed(event.stream_id, arrivals)
            elif isinstance(event, ngh2.TrailersReceived):
                self._end(event.stream_id, arrivals)
            elif isinstance(event, ngh2.PingReceived):
                self._ping()
            elif isinstance(event, ngh2.ConnectionClosed):
                self.broken = True
        return arrivals

    def gone(self) -> list[Arrival]:
        """Takes that the client has vanished; returns its calls as cancelled."""
        streams, self._streams = self._streams, {}
        self.broken = True
        return [_over(number, stream, "CANCELLED") for number, stream in streams.items()]

    def consumed(self, stream: int, size: int) -> None:
        """Lets the client send as many bytes more on an opened call."""
        self._acknowledge(stream, size)

    def answer(self, stream: int, message: bytes, initial: Pairs = (), trailing: Pairs = ()) -> None:
        """Ends a call with one message and OK."""
        if self._streams.pop(stream, None) is None:
            return
        try:
            self._http2.send_response(stream, OPENING + outgoing(initial) if initial else OPENING)
            self._http2.send_data(stream, frame(message))
            self._http2.send_trailers(stream, SUCCESS + outgoing(trailing) if trailing else SUCCESS)
        except ngh2.NGH2Error:
            # The stream went away between its last frame and now.
            return

    def send(self, stream: int, message: bytes, initial: Pairs = ()) -> None:
        """Sends one of several messages."""
        found = self._streams.get(stream)
        if found is None:
            return
        try:
            if not found.answered:
                self._http2.send_response(stream, OPENING + outgoing(initial))
                found.answered = True
            self._http2.send_data(stream, frame(message))
        except ngh2.NGH2Error:
            self._streams.pop(stream, None)

    def finish(self, stream: int, status: str, text: str = "", initial: Pairs = (), trailing: Pairs = ()) -> None:
        """Ends a call with a status; without a message before it, headers and trailers are one."""
        found = self._streams.pop(stream, None)
        if found is None:
            return
        self._held -= found.assembler.held if found.assembler is not None else 0
        fields = [(b"grpc-status", STATUS[status])]
        if text:
            fields.append((b"grpc-message", percent_encoded(text)))
        fields += outgoing(trailing)
        try:
            if found.answered:
                self._http2.send_trailers(stream, fields)
            else:
                self._http2.send_response(stream, OPENING + outgoing(initial) + fields, end_stream=True)
        except ngh2.NGH2Error:
            return

    def queued(self, stream: int) -> int:
        """Returns the bytes of a stream that wait for the client's window."""
        try:
            return self._http2.queued_body_size(stream)
        except ngh2.NGH2Error:
            return 0

    def announce_shutdown(self) -> None:
        """Tells the client that the connection will end, while calls on their way are still taken."""
        self._quietly(self._http2.send_shutdown_notice)
        self._quietly(self._http2.ping)

    def shut_down(self) -> None:
        """Tells the client which calls were taken; later ones are not."""
        self._quietly(self._http2.send_goaway)

    def bytes_to_send(self, most: int) -> bytes:
        """Returns up to about `most` bytes for the client."""
        try:
            return self._http2.data_to_send(most)
        except ngh2.NGH2Error:
            self.broken = True
            return b""

    def _quietly(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ngh2.NGH2Error:
            self.broken = True

    def _request(self, event: ngh2.RequestReceived, arrivals: list[Arrival]) -> None:
        number, headers = event.stream_id, event.headers
        fields = dict(headers)
        path = fields.get(b":path", b"").decode("ascii", "backslashreplace")
        if not fields.get(b"content-type", b"").startswith(CONTENT_TYPE) or fields.get(b":method") != b"POST":
            self._no_grpc(number, fields)
            return
        self._pings = 0
        raw = fields.get(b"grpc-timeout")
        timeout = timeout_seconds(raw) if raw is not None else None
        stream = _Stream(headers, path, timeout, path in self._unary)
        self._streams[number] = stream
        encoding = fields.get(b"grpc-encoding", b"")
        if raw is not None and timeout is None:
            self._refuse(number, InvalidRequest("grpc-timeout: expected 1 to 8 digits and a unit"), arrivals)
        elif encoding and encoding not in ENCODINGS:
            self._refuse(number, unknown_encoding(encoding), arrivals)
        else:
            if encoding:
                stream.assembler = Assembler(encoding, self._limits.message_bytes)
            if not stream.unary:
                stream.begun = True
                arrivals.append(Opened(number, headers, path, timeout))
            if event.end_stream:
                self._end(number, arrivals)

    def _data(self, event: ngh2.DataReceived, arrivals: list[Arrival]) -> None:
        number, data = event.stream_id, event.data
        stream = self._streams.get(number)
        if stream is None:
            # Answered before all of it came; the bytes still count against the connection's window.
            self._acknowledge(number, len(data))
            return
        if stream.unary:
            self._acknowledge(number, len(data))
            if event.end_stream and stream.assembler is None and self._one_frame(stream, data):
                stream.message = data[PREFIX:]
                stream.ended = stream.begun = True
                arrivals.append(Whole(number, stream.headers, stream.path, stream.timeout, stream.message))
                return
        if data:
            try:
                self._feed(number, stream, data, arrivals)
            except GnomonError as error:
                self._refuse(number, error, arrivals)
                return
        if event.end_stream:
            self._end(number, arrivals)

    def _one_frame(self, stream: _Stream, data: bytes) -> bool:
        """Whether the data is exactly one uncompressed message, the whole of a small request."""
        size = len(data) - PREFIX
        return (
            stream.message is None
            and 0 <= size <= self._limits.message_bytes
            and data[0] == 0
            and int.from_bytes(data[1:PREFIX], "big") == size
        )

    def _feed(self, number: int, stream: _Stream, data: bytes, arrivals: list[Arrival]) -> None:
        if stream.assembler is None:
            stream.assembler = Assembler(b"", self._limits.message_bytes)
        assembler = stream.assembler
        self._held -= assembler.held
        messages = assembler.feed(data)
        self._held += assembler.held
        if self._held > MOST_HELD * self._limits.message_bytes:
            most = MOST_HELD * self._limits.message_bytes
            raise Exhausted(f"connection: expected at most {most} bytes of incomplete requests, received more")
        if not stream.unary:
            # What is not part of a complete message yet was consumed into the buffer.
            due = len(data)
            arrivals.extend(Message(number, message, 0) for message in messages[:-1])
            if messages:
                arrivals.append(Message(number, messages[-1], due))
            else:
                self._acknowledge(number, due)
            return
        for message in messages:
            if stream.message is not None:
                raise Internal("expected one message on a unary call, received more")
            stream.message = message

    def _end(self, number: int, arrivals: list[Arrival]) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            return
        stream.ended = True
        if stream.assembler is not None and stream.assembler.held:
            self._refuse(number, Internal("message: expected more bytes, received the end of the call"), arrivals)
        elif not stream.unary:
            arrivals.append(HalfClosed(number))
        elif stream.message is None:
            self._refuse(number, NotOffered("expected one message on a unary call, received none"), arrivals)
        else:
            stream.begun = True
            arrivals.append(Whole(number, stream.headers, stream.path, stream.timeout, stream.message))

    def _refuse(self, number: int, error: GnomonError, arrivals: list[Arrival]) -> None:
        stream = self._streams[number]
        self.finish(number, error.status, str(error))
        arrivals.append(_over(number, stream, error.status))

    def _closed(self, number: int, arrivals: list[Arrival]) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        self._held -= stream.assembler.held if stream.assembler is not None else 0
        arrivals.append(_over(number, stream, "CANCELLED"))

    def _no_grpc(self, number: int, fields: dict[bytes, bytes]) -> None:
        """Answers what is not gRPC with HTTP's own statuses, as the specification asks for."""
        status = b"405" if fields.get(b":method") != b"POST" else b"415"
        try:
            self._http2.send_response(number, [(b":status", status)], end_stream=True)
        except ngh2.NGH2Error:
            return

    def _ping(self) -> None:
        self._pings += 1
        if self._pings > self._limits.pings:
            self._http2.terminate_connection(ngh2.ErrorCode.ENHANCE_YOUR_CALM)
            self.broken = True

    def _acknowledge(self, number: int, size: int) -> None:
        if size:
            try:
                self._http2.acknowledge_received_data(size, number)
            except ngh2.NGH2Error:
                return


def _over(number: int, stream: _Stream, status: str) -> Arrival:
    """Returns what the end of a call means to whoever has, or has not, heard of it."""
    return Cancelled(number, status) if stream.begun else Refused(stream.headers, stream.path, status)
