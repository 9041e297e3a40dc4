"""The calls of one connection: from arrivals to handlers, and from answers to the session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gnomon_server.errors import DeadlineExceeded, NotOffered
from gnomon_server.serving.transport import Stream, Unary, broken_off, status_text
from gnomon_server.serving.transport.http2.arrivals import (
    Arrival,
    Cancelled,
    HalfClosed,
    Message,
    Opened,
    Refused,
    Whole,
)
from gnomon_server.serving.transport.http2.call import Http2Call
from gnomon_server.serving.transport.http2.common import Common
from gnomon_server.serving.transport.http2.passes import Flushable
from gnomon_server.serving.transport.http2.session import Session
from gnomon_server.serving.transport.http2.streaming import Streaming, known

# Answers up to this size cannot amount to much, as the number of calls at a time is limited.
LARGE: Final = 16 << 10
OTHER: Final = "_OTHER"


class Calls:
    """Begins and ends them; belongs to the transport's event loop."""

    def __init__(
        self, common: Common, session: Session, peer: str, connection: Flushable, unsent: Callable[[], int]
    ) -> None:
        """Takes the connection and how to know the bytes that it has not written yet."""
        self.peer = peer
        self.room = asyncio.Event()
        self._common = common
        self._passes = common.passes
        self._session = session
        self._connection = connection
        self._unsent = unsent
        self._calls: dict[int, Http2Call] = {}
        self._streams: dict[int, Streaming] = {}
        # So much waits for the client to read that its next requests have to wait too, and these requests.
        self._stuck = False
        self._backlog: deque[Arrival] = deque()

    @property
    def clogged(self) -> bool:
        """Whether so much waits for the client to read that its next requests have to wait too."""
        return self._session.unsent + self._unsent() > self._common.limits.waiting_bytes

    def take(self, arrivals: Sequence[Arrival]) -> None:
        """Takes what arrived, in order."""
        for arrival in arrivals:
            if self._stuck:
                self._backlog.append(arrival)
            elif type(arrival) is Whole:
                self._begin(arrival)
            else:
                self._take(arrival)

    def written(self) -> None:
        """Takes that the client may have read something."""
        if self._streams:
            self.room.set()
        if self._stuck:
            self._work_off()

    def abandon(self) -> None:
        """Cancels all calls, since no answer can reach the client any more."""
        self.room.set()
        for arrival in self._session.gone():
            self._take(arrival)
        for arrival in self._backlog:
            if isinstance(arrival, Whole | Opened):
                self._never_begun(arrival)
        self._backlog.clear()

    def answer(self, call: Http2Call, message: bytes) -> None:
        """Ends a unary call with OK."""
        call.ended = True
        self._session.answer(call.stream, message, call.initial, call.trailing)
        if len(message) > LARGE and self.clogged:
            self._stuck = True
        self._over(call, "OK")

    def finish(self, call: Http2Call, status: str, text: str) -> None:
        """Ends a call with a status."""
        call.ended = True
        self._session.finish(call.stream, status, status_text(text), call.initial, call.trailing)
        self._over(call, status)

    def expire(self, call: Http2Call) -> None:
        """Ends a call whose deadline has passed."""
        call.fail(DeadlineExceeded("the call's deadline passed"))
        self._end_stream(call.stream)

    def consumed(self, stream: int, message: bytes) -> None:
        """Takes that a handler has taken a message."""
        self._session.consumed(stream, message)
        self._passes.touch(self._connection)

    def send(self, call: Http2Call, message: bytes) -> None:
        """Sends one of several messages."""
        self._session.send(call.stream, message, call.initial)
        self._passes.touch(self._connection)

    def queued(self, stream: int) -> int:
        """Returns the bytes of a stream that wait for the client."""
        return self._session.queued(stream)

    def _over(self, call: Http2Call, status: str) -> None:
        self._calls.pop(call.stream, None)
        if call.tick:
            self._common.deadlines.remove(call, call.tick)
        self._passes.touch(self._connection)
        self._passes.over(call, status)

    def _begin(self, whole: Whole) -> None:
        stream, head, message = whole
        name, method = self._common.handlers[head.path]
        call = self._calls[stream] = Http2Call(self, stream, name, head, message, self._passes.now)
        if head.timeout is not None:
            call.tick = self._common.deadlines.add(call, head.timeout)
        try:
            assert isinstance(method, Unary)  # noqa: S101 - the session delivers nothing else as a whole
            method.handle(call)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status, never a stack trace
            call.fail(known(call, error))

    def _take(self, arrival: Arrival) -> None:
        if isinstance(arrival, Whole):
            self._begin(arrival)
        elif isinstance(arrival, Message):
            self._put(arrival.stream, arrival.message)
        elif isinstance(arrival, HalfClosed):
            self._put(arrival.stream, None)
        elif isinstance(arrival, Opened):
            self._open(arrival)
        elif isinstance(arrival, Cancelled):
            self._cancel(arrival)
        elif isinstance(arrival, Refused):
            self._observe(arrival)

    def _put(self, stream: int, message: bytes | None) -> None:
        streaming = self._streams.get(stream)
        if streaming is not None:
            streaming.put(message)

    def _open(self, opened: Opened) -> None:
        stream, head = opened
        name, method = self._common.handlers.get(head.path, (OTHER, None))
        call = self._calls[stream] = Http2Call(self, stream, name, head, b"", self._passes.now)
        if head.timeout is not None:
            call.tick = self._common.deadlines.add(call, head.timeout)
        if not isinstance(method, Stream):
            shown = head.path.rpartition(b"/")[2].decode("ascii", "backslashreplace")[:64]
            call.fail(NotOffered(f"method '{shown}' is not offered"))
            return
        streaming = self._streams[stream] = Streaming(self, call, method)
        streaming.task.add_done_callback(lambda _: self._streams.pop(stream, None))

    def _cancel(self, cancelled: Cancelled) -> None:
        call = self._calls.get(cancelled.stream)
        if call is not None:
            call.ended = True
            self._over(call, broken_off(call) if cancelled.status == "CANCELLED" else cancelled.status)
        self._end_stream(cancelled.stream)

    def _end_stream(self, stream: int) -> None:
        streaming = self._streams.get(stream)
        if streaming is not None:
            streaming.task.cancel()

    def _work_off(self) -> None:
        self._stuck = self.clogged
        if not self._stuck:
            self._passes.touch(self._connection)
        while self._backlog and not self._stuck:
            arrival = self._backlog.popleft()
            if isinstance(arrival, Whole | Opened) and not self._session.alive(arrival.stream):
                self._never_begun(arrival)
            else:
                self._take(arrival)

    def _never_begun(self, arrival: Whole | Opened) -> None:
        """Takes that a call was cancelled before its handler heard of it."""
        self._observe(Refused(arrival.head, "CANCELLED"))

    def _observe(self, refused: Refused) -> None:
        name, _ = self._common.handlers.get(refused.head.path, (OTHER, None))
        call = Http2Call(self, 0, name, refused.head, b"", self._passes.now)
        self._passes.over(call, refused.status)
