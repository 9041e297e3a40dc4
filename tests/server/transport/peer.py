"""The client's end of a connection without I/O, and frames that no decent client would send."""

from __future__ import annotations

from collections.abc import Sequence

import ngh2

from gnomon_server.serving.transport.http2.arrivals import Arrival
from gnomon_server.serving.transport.http2.limits import Limits
from gnomon_server.serving.transport.http2.session import Session

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ECHO = b"/test.Echo/Echo"
STREAM = b"/test.Echo/Stream"
MOST = 1 << 30

Pairs = Sequence[tuple[bytes, bytes]]


def framed(message: bytes, flag: int = 0) -> bytes:
    """A length-prefixed message."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame, valid or not."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def headers(
    path: bytes = ECHO, extra: Pairs = (), content_type: bytes = b"application/grpc"
) -> list[tuple[bytes, bytes]]:
    """A request's header fields."""
    pseudo = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"test")]
    return [*pseudo, (b"te", b"trailers"), (b"content-type", content_type), *extra]


class Peer:
    """A client and the session that it talks to; what arrived there, and the events that came back."""

    def __init__(self, limits: Limits | None = None, window: int | None = None) -> None:
        """Takes the bytes of answers that the client takes on each stream; without them it takes all."""
        self.now = 0.0
        self.session = Session(frozenset({ECHO}), limits or Limits(), lambda: self.now)
        reading = ngh2.Configuration(auto_window_update=window is None)
        self.http2 = ngh2.Connection(ngh2.Role.CLIENT, reading)
        self.http2.initiate_connection(None if window is None else {ngh2.Setting.INITIAL_WINDOW_SIZE: window})
        self.arrivals: list[Arrival] = []
        self.events: list[ngh2.Event] = []
        self.exchange()

    def begin(self, path: bytes = ECHO, extra: Pairs = (), end: bool = False, **how: bytes) -> int:
        """Sends a call's headers; returns the stream."""
        return self.http2.send_request(headers(path, extra, **how), end_stream=end)

    def call(self, message: bytes = b"hello", path: bytes = ECHO, extra: Pairs = ()) -> int:
        """Sends a whole call."""
        stream = self.begin(path, extra)
        self.http2.send_data(stream, framed(message), end_stream=True)
        return stream

    def exchange(self) -> list[Arrival]:
        """Carries bytes to and fro until nobody has any; returns what arrived at the session."""
        arrivals: list[Arrival] = []
        while True:
            there, back = self.http2.data_to_send(), self.session.bytes_to_send(MOST)
            if there:
                arrivals += self.session.receive(there)
            if back:
                self.http2.receive_data(back)
                self.events += self.http2.events()
            if not there and not back:
                self.arrivals += arrivals
                return arrivals

    def body(self, stream: int) -> bytes:
        """The DATA that came back."""
        return b"".join(e.data for e in self.events if isinstance(e, ngh2.DataReceived) and e.stream_id == stream)

    def fields(self, stream: int) -> dict[bytes, bytes]:
        """The header fields and trailers that came back."""
        found: dict[bytes, bytes] = {}
        for event in self.events:
            if isinstance(event, ngh2.ResponseReceived | ngh2.TrailersReceived) and event.stream_id == stream:
                found |= dict(event.headers)
        return found

    def status(self, stream: int) -> tuple[bytes, bytes]:
        """The status and the text that came back."""
        fields = self.fields(stream)
        return fields.get(b"grpc-status", b""), fields.get(b"grpc-message", b"")

    def last(self, kind: type[ngh2.Event]) -> ngh2.Event | None:
        """The last event of a kind."""
        return next((event for event in reversed(self.events) if isinstance(event, kind)), None)
