"""One gRPC connection without I/O: bytes in, arrivals out; answers in, bytes out.

ngh2 speaks HTTP/2; this module speaks gRPC over it (doc/PROTOCOL-HTTP2.md of grpc/grpc). It knows neither sockets nor
handlers, only which paths take exactly one message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from typing import Final

import ngh2

from gnomon_server.errors import Exhausted, GnomonError, Internal, NotOffered
from gnomon_server.serving.transport import Pairs
from gnomon_server.serving.transport.http2.arrivals import (
    Arrival,
    Cancelled,
    HalfClosed,
    Message,
    Opened,
    Refused,
    Whole,
)
from gnomon_server.serving.transport.http2.framing import ENCODINGS, Assembler, only_message, prefix
from gnomon_server.serving.transport.http2.head import CONTENT_TYPE, Head, Headers, read
from gnomon_server.serving.transport.http2.incoming import Incoming
from gnomon_server.serving.transport.http2.limits import Limits
from gnomon_server.serving.transport.http2.metadata import STATUS, outgoing, percent_encoded
from gnomon_server.serving.transport.http2.pings import PingStrikes

OPENING: Final = [
    (b":status", b"200"),
    (b"content-type", CONTENT_TYPE),
    (b"grpc-accept-encoding", b",".join(ENCODINGS)),
]
SUCCESS: Final = [(b"grpc-status", b"0")]
# Window of each stream and of the connection, in bytes: one large message flows without waiting for every ack.
STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 8 << 20
# Messages up to this size are copied behind their prefix; it is cheaper than two calls.
JOINED: Final = 16 << 10
# The PING that follows the notice of a shutdown: its echo tells that the client knows.
NOTICE: Final = b"farewell"
# Where a client goes on sending after its call was answered, that much is thrown away before the stream is reset.
# Not at once: within a DATA frame, a reset would lose that frame's share of the connection's window.
IGNORED: Final = 4 << 20


class Session:
    """The server's end of one connection; belongs to one thread."""

    def __init__(self, unary: Container[bytes], limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the paths (b"/package.Service/Method") of methods that take exactly one message."""
        self._unary = unary
        self._limits = limits
        self._streams: dict[int, Incoming] = {}
        # Bytes still to be thrown away, by stream that was answered before its end.
        self._ignored: dict[int, int] = {}
        # Bytes of requests in memory that are not complete, or not consumed; and that are complete but not answered.
        self._held = 0
        self._handed = 0
        self._strikes = PingStrikes(limits.pings, limits.ping_seconds, clock)
        # The last request's headers and what they mean: most clients send the same again and again.
        self._headers: Headers = ()
        self._head = Head()
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, _configuration(limits))
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
        # Calls that ever began here.
        self.begun = 0

    @property
    def calls(self) -> int:
        """Calls that have no final answer yet."""
        return len(self._streams)

    @property
    def unsent(self) -> int:
        """Bytes of answers that wait for the client's windows, or for `bytes_to_send`."""
        return self._http2.queued_body_size()

    @property
    def full(self) -> bool:
        """Whether so many bytes of requests wait for their answers that no more should be read for now."""
        return self._handed > self._limits.waiting_bytes

    def alive(self, stream: int) -> bool:
        """Returns whether a call still waits for its answer."""
        return stream in self._streams

    def receive(self, data: bytes | memoryview) -> list[Arrival]:
        """Takes bytes from the client; returns what arrived with them, in order. Never raises."""
        arrivals: list[Arrival] = []
        try:
            self._http2.receive_data(data)
            self.broken = self.broken or not self._http2.want_read
        except ngh2.NGH2Error:
            self.broken = True
        for event in self._http2.events():
            kind = type(event)
            if kind is ngh2.DataReceived:
                self._data(event, arrivals)  # type: ignore[arg-type]
            elif kind is ngh2.RequestReceived:
                self._request(event, arrivals)  # type: ignore[arg-type]
            elif kind is ngh2.StreamClosed:
                # Of a call that was answered, there is nothing left.
                if event.stream_id in self._streams or self._ignored:  # type: ignore[attr-defined]
                    self._closed(event.stream_id, arrivals)  # type: ignore[attr-defined]
            else:
                self._rare(event, arrivals)
        return arrivals

    def gone(self) -> list[Arrival]:
        """Takes that the client has vanished; returns its calls as cancelled."""
        streams, self._streams = self._streams, {}
        self._held = self._handed = 0
        self.broken = True
        return [_over(number, stream, "CANCELLED") for number, stream in streams.items()]

    def consumed(self, stream: int, message: bytes) -> None:
        """Takes that a message of an opened call is consumed; only now may the client send as much again."""
        found = self._streams.get(stream)
        if found is None:
            return
        found.unread -= 1
        found.unread_bytes -= len(message)
        self._hold(found)
        self._credit(stream, found, found.due if found.unread == 0 else len(message))

    def answer(self, stream: int, message: bytes, initial: Pairs = (), trailing: Pairs = ()) -> None:
        """Ends a unary call with one message and OK."""
        found = self._streams.pop(stream, None)
        if found is None:
            return
        self._handed -= found.held
        http2 = self._http2
        try:
            http2.send_response(stream, OPENING + outgoing(initial) if initial else OPENING)
            if len(message) <= JOINED:
                http2.send_data(stream, prefix(message) + message)
            else:
                http2.send_data(stream, prefix(message))
                http2.send_data(stream, message)
            http2.send_trailers(stream, SUCCESS + outgoing(trailing) if trailing else SUCCESS)
        except ngh2.NGH2Error:
            # The stream went away between its last frame and now.
            return

    def send(self, stream: int, message: bytes, initial: Pairs = ()) -> None:
        """Sends one of several messages."""
        found = self._streams.get(stream)
        if found is None:
            return
        self._strikes.clear()
        try:
            if not found.answered:
                self._http2.send_response(stream, OPENING + outgoing(initial))
                found.answered = True
            self._http2.send_data(stream, prefix(message))
            self._http2.send_data(stream, message)
        except ngh2.NGH2Error:
            # As above; that it is closed comes as an arrival.
            return

    def finish(self, stream: int, status: str, text: str = "", initial: Pairs = (), trailing: Pairs = ()) -> None:
        """Ends a call with a status; without a message before it, headers and trailers are one."""
        found = self._streams.pop(stream, None)
        if found is None:
            return
        self._let_go(stream, found)
        if not found.ended:
            self._ignored[stream] = IGNORED
        fields = [(b"grpc-status", STATUS[status])]
        if text:
            fields.append((b"grpc-message", percent_encoded(text)))
        fields += outgoing(trailing)
        try:
            if found.answered:
                self._http2.send_trailers(stream, fields)
            elif initial:
                # Initial metadata of its own is seen as such only if it does not travel with the trailers.
                self._http2.send_response(stream, OPENING + outgoing(initial))
                self._http2.send_trailers(stream, fields)
            else:
                self._http2.send_response(stream, OPENING + fields, end_stream=True)
        except ngh2.NGH2Error:
            return

    def queued(self, stream: int) -> int:
        """Returns the bytes of a stream that wait for the client's window."""
        return self._http2.queued_body_size(stream)

    def announce_shutdown(self) -> None:
        """Tells the client that the connection will end; calls are taken until it has heard of that."""
        self._quietly(self._http2.send_shutdown_notice)
        self._quietly(lambda: self._http2.ping(NOTICE))

    def shut_down(self) -> None:
        """Tells the client which calls were taken; later ones are not."""
        self._quietly(self._http2.send_goaway)

    def bytes_to_send(self, most: int) -> bytes:
        """Returns bytes for the client; if there are `most` or more, there may be others behind them."""
        http2 = self._http2
        try:
            # Without a limit ngh2 saves a copy.
            data = http2.data_to_send(None if http2.queued_body_size() <= most else most)
            if not http2.want_read and len(data) < most:
                # That was the last answer on a connection that was shut down.
                self.broken = True
        except ngh2.NGH2Error:
            self.broken = True
            return b""
        return data

    def _quietly(self, action: Callable[[], None]) -> None:
        try:
            action()
        except ngh2.NGH2Error:
            self.broken = True

    def _request(self, event: ngh2.RequestReceived, arrivals: list[Arrival]) -> None:
        number, headers = event.stream_id, event.headers
        if headers != self._headers:
            self._headers, self._head = headers, read(headers, self._limits.header_bytes)
        head = self._head
        if head.refused is not None:
            self._no_grpc(number, head.refused, event.end_stream)
            return
        self.begun += 1
        stream = self._streams[number] = Incoming(head, head.path in self._unary)
        if head.error is not None:
            stream.ended = event.end_stream
            self._refuse(number, stream, head.error, arrivals)
            return
        if head.encoding is not None:
            stream.assembler = Assembler(head.encoding, self._limits.message_bytes)
        if not stream.unary:
            stream.begun = True
            arrivals.append(Opened(number, head))
        if event.end_stream:
            self._end(number, arrivals)

    def _data(self, event: ngh2.DataReceived, arrivals: list[Arrival]) -> None:
        number, data = event.stream_id, event.data
        stream = self._streams.get(number)
        if stream is None:
            self._throw_away(number, len(data))
            return
        if stream.unary:
            self._acknowledge(number, len(data))
            if event.end_stream and stream.assembler is None:
                # All of it in one frame, as most small requests come.
                message = only_message(data, self._limits.message_bytes)
                if message is not None:
                    stream.ended = stream.begun = True
                    arrivals.append(Whole(number, stream.head, message))
                    return
        else:
            stream.due += len(data)
        if data:
            try:
                self._feed(number, stream, data, arrivals)
            except GnomonError as error:
                stream.ended = event.end_stream
                self._refuse(number, stream, error, arrivals)
                return
        if event.end_stream:
            self._end(number, arrivals)

    def _feed(self, number: int, stream: Incoming, data: bytes, arrivals: list[Arrival]) -> None:
        for message in stream.feed(data, self._limits.message_bytes):
            stream.unread += 1
            stream.unread_bytes += len(message)
            arrivals.append(Message(number, message))
        self._hold(stream)
        most = self._limits.waiting_bytes
        if self._held > most:
            raise Exhausted(f"connection: expected at most {most} bytes of requests that wait, received more")
        if stream.unread == 0:
            # Of a message that is not complete, the rest must be able to come.
            self._credit(number, stream, stream.due)

    def _end(self, number: int, arrivals: list[Arrival]) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            return
        stream.ended = True
        if stream.cut_off:
            error = Internal("message: expected more bytes, received the end of the call")
            self._refuse(number, stream, error, arrivals)
        elif not stream.unary:
            arrivals.append(HalfClosed(number))
        elif stream.message is None:
            self._refuse(number, stream, NotOffered("expected one message on a unary call, received none"), arrivals)
        else:
            stream.begun = True
            message, stream.message = stream.message, None
            self._held -= stream.held
            stream.held = len(message)
            self._handed += stream.held
            arrivals.append(Whole(number, stream.head, message))

    def _refuse(self, number: int, stream: Incoming, error: GnomonError, arrivals: list[Arrival]) -> None:
        self.finish(number, error.status, str(error))
        arrivals.append(_over(number, stream, error.status))

    def _closed(self, number: int, arrivals: list[Arrival]) -> None:
        self._ignored.pop(number, None)
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._let_go(number, stream)
            arrivals.append(_over(number, stream, "CANCELLED"))

    def _no_grpc(self, number: int, status: bytes, ended: bool) -> None:
        if not ended:
            self._ignored[number] = IGNORED
        self._quietly(lambda: self._http2.send_response(number, [(b":status", status)], end_stream=True))

    def _rare(self, event: ngh2.Event, arrivals: list[Arrival]) -> None:
        if isinstance(event, ngh2.StreamReset):
            self._closed(event.stream_id, arrivals)
        elif isinstance(event, ngh2.TrailersReceived):
            self._end(event.stream_id, arrivals)
        elif isinstance(event, ngh2.PingReceived):
            if self._strikes.out(self.begun):
                # The reason that grpc's clients understand: they send PINGs more rarely from now on.
                code = ngh2.ErrorCode.ENHANCE_YOUR_CALM
                self._quietly(lambda: self._http2.send_goaway(code, debug_data=b"too_many_pings"))
                self.broken = True
        elif isinstance(event, ngh2.PingAcknowledged):
            if event.opaque_data == NOTICE:
                self.shut_down()
        elif isinstance(event, ngh2.ConnectionClosed):
            self.broken = True

    def _hold(self, stream: Incoming) -> None:
        held = stream.in_memory
        self._held += held - stream.held
        stream.held = held

    def _let_go(self, number: int, stream: Incoming) -> None:
        """Forgets what was held for a call that is over; all of its bytes count as consumed."""
        if stream.unary and stream.begun:
            self._handed -= stream.held
        else:
            self._held -= stream.held
        self._credit(number, stream, stream.due)

    def _credit(self, number: int, stream: Incoming, size: int) -> None:
        size = min(size, stream.due)
        stream.due -= size
        self._acknowledge(number, size)

    def _throw_away(self, number: int, size: int) -> None:
        self._acknowledge(number, size)
        left = self._ignored.get(number)
        if left is not None:
            self._ignored[number] = left - size
            if left <= size:
                del self._ignored[number]
                self._quietly(lambda: self._http2.reset_stream(number, ngh2.ErrorCode.NO_ERROR))

    def _acknowledge(self, number: int, size: int) -> None:
        if size:
            try:
                self._http2.acknowledge_received_data(size, number)
            except ngh2.NGH2Error:
                return


def _configuration(limits: Limits) -> ngh2.Configuration:
    return ngh2.Configuration(
        auto_window_update=False,
        max_inbound_header_list_size=4 * limits.header_bytes,
        stream_reset_rate_limit=(limits.resets, limits.resets_per_second),
    )


def _over(number: int, stream: Incoming, status: str) -> Arrival:
    """Returns what the end of a call means to whoever has, or has not, heard of it."""
    return Cancelled(number, status) if stream.begun else Refused(stream.head, status)
