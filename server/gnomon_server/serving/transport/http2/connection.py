"""One client's connection: a socket, its session, and the calls on it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from gnomon_server.errors import DeadlineExceeded, GnomonError, Internal, NotOffered
from gnomon_server.serving.transport import Call, Stream, Unary, broken_off
from gnomon_server.serving.transport.http2.metadata import incoming_text
from gnomon_server.serving.transport.http2.session import (
    Arrival,
    Cancelled,
    HalfClosed,
    Headers,
    Message,
    Opened,
    Refused,
    Session,
    Whole,
)

if TYPE_CHECKING:
    from gnomon_server.serving.transport.http2.server import Http2Transport

log = logging.getLogger(__name__)

RECEIVE: Final = 256 << 10
# Bytes that are taken from the session at once, and that a stream may have waiting before its handler pauses.
SEND: Final = 1 << 20
OTHER: Final = "_OTHER"


class Http2Call(Call):
    """A call on a stream of a connection."""

    __slots__ = ("_connection", "_ended", "_headers", "deadline", "stream", "tick")

    def __init__(
        self, connection: Connection, stream: int, headers: Headers, method: str, timeout: float | None, message: bytes
    ) -> None:
        super().__init__(method, message)
        self._connection = connection
        self._headers = headers
        self._ended = False
        self.stream = stream
        # On the loop's clock; None without one.
        self.deadline = None if timeout is None else connection.transport.loop.time() + timeout
        self.tick = 0

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._ended

    def metadata(self, key: str) -> str | None:
        """Returns the first text value of a metadata key, or None."""
        return incoming_text(self._headers, key)

    def peer(self) -> str:
        """Returns the peer's address as gRPC prints it."""
        return self._connection.peer

    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, or None without one."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._connection.transport.loop.time())

    def answer(self, message: bytes) -> None:
        """Ends the call with OK; does nothing if it is over."""
        if self.end("OK"):
            connection = self._connection
            connection.session.answer(self.stream, message, self.initial, self.trailing)
            connection.transport.touch(connection)

    def fail(self, error: GnomonError) -> None:
        """Ends the call with an error's status and text; does nothing if it is over."""
        if self.end(error.status):
            connection = self._connection
            connection.session.finish(self.stream, error.status, str(error), self.initial, self.trailing)
            connection.transport.touch(connection)

    def expire(self) -> None:
        """Ends the call because its deadline has passed."""
        self._connection.expire(self)

    def end(self, status: str) -> bool:
        """Takes that the call is over, and tells the observer; returns False if it was over before."""
        if self._ended:
            return False
        self._ended = True
        self._connection.over(self)
        self._connection.transport.observer(self, status)
        return True


class _Inbox:
    """The messages of a streaming call on their way to its handler."""

    def __init__(self, session: Session, stream: int) -> None:
        self._session, self._stream = session, stream
        self._queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def put(self, message: Message | None) -> None:
        self._queue.put_nowait(message)

    async def messages(self) -> AsyncIterator[bytes]:
        while (found := await self._queue.get()) is not None:
            # Only now may the client send as much again.
            self._session.consumed(self._stream, found.size)
            yield found.message


class Connection:
    """A connected client; belongs to the transport's event loop."""

    def __init__(self, transport: Http2Transport, link: socket.socket, peer: str) -> None:
        self.transport = transport
        self.peer = peer
        self.session = Session(transport.unary, transport.limits)
        self.calls: dict[int, Http2Call] = {}
        self._inboxes: dict[int, _Inbox] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._socket = link
        self._unsent = memoryview(b"")
        self._writing = False
        self._room = asyncio.Event()
        self.closed = False
        transport.loop.add_reader(link, self._readable)

    def flush(self) -> None:
        """Writes what the session has, as far as the socket takes it."""
        if self.closed or self._writing:
            return
        try:
            while True:
                if not self._unsent:
                    self._unsent = memoryview(self.session.bytes_to_send(SEND))
                    if not self._unsent:
                        break
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            self._writing = True
            self.transport.loop.add_writer(self._socket, self._writable)
        except OSError:
            self.close()
            return
        self._room.set()
        if self.session.broken and not self._writing:
            self.close()

    def close(self) -> None:
        """Closes the socket; calls on it are cancelled."""
        if self.closed:
            return
        self.closed = True
        self.transport.loop.remove_reader(self._socket)
        self.transport.loop.remove_writer(self._socket)
        self._socket.close()
        self._room.set()
        for arrival in self.session.gone():
            self._take(arrival)
        self.transport.forget(self)

    def over(self, call: Http2Call) -> None:
        """Takes that a call is over."""
        self.calls.pop(call.stream, None)
        if call.tick:
            self.transport.deadlines.remove(call, call.tick)

    def expire(self, call: Http2Call) -> None:
        """Ends a call whose deadline has passed."""
        task = self._tasks.get(call.stream)
        call.fail(DeadlineExceeded("the call's deadline passed"))
        if task is not None:
            task.cancel()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for arrival in self.session.receive(data):
            self._take(arrival)
        self.transport.touch(self)

    def _writable(self) -> None:
        self.transport.loop.remove_writer(self._socket)
        self._writing = False
        self.flush()

    def _take(self, arrival: Arrival) -> None:
        kind = type(arrival)
        if kind is Whole:
            self._call(arrival)  # type: ignore[arg-type]
        elif isinstance(arrival, Opened):
            self._open(arrival)
        elif isinstance(arrival, Message):
            inbox = self._inboxes.get(arrival.stream)
            if inbox is not None:
                inbox.put(arrival)
        elif isinstance(arrival, HalfClosed):
            inbox = self._inboxes.get(arrival.stream)
            if inbox is not None:
                inbox.put(None)
        elif isinstance(arrival, Cancelled):
            self._cancel(arrival)
        elif isinstance(arrival, Refused):
            name = arrival.path[1:]
            method = name if name in self.transport.methods else OTHER
            self.transport.observer(Http2Call(self, 0, arrival.headers, method, None, b""), arrival.status)

    def _call(self, whole: Whole) -> None:
        name = whole.path[1:]
        method = self.transport.methods[name]
        call = self._begin(Http2Call(self, whole.stream, whole.headers, name, whole.timeout, whole.message))
        try:
            assert isinstance(method, Unary)  # noqa: S101 - the session delivers nothing else as a whole
            method.handle(call)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status, never a stack trace
            call.fail(_known(call, error))

    def _open(self, opened: Opened) -> None:
        name = opened.path[1:]
        method = self.transport.methods.get(name)
        call = Http2Call(self, opened.stream, opened.headers, name if method else OTHER, opened.timeout, b"")
        self._begin(call)
        if not isinstance(method, Stream):
            shown = name.rpartition("/")[2][:64]
            call.fail(NotOffered(f"method '{shown}' is not offered"))
            return
        inbox = self._inboxes[opened.stream] = _Inbox(self.session, opened.stream)
        task = asyncio.create_task(self._stream(method, call, inbox))
        self._tasks[opened.stream] = task
        task.add_done_callback(lambda _: self._closed_stream(opened.stream))

    def _begin(self, call: Http2Call) -> Http2Call:
        self.calls[call.stream] = call
        if call.deadline is not None:
            call.tick = self.transport.deadlines.add(call, call.deadline)
        return call

    def _cancel(self, cancelled: Cancelled) -> None:
        call = self.calls.get(cancelled.stream)
        if call is not None:
            call.end(broken_off(call) if cancelled.status == "CANCELLED" else cancelled.status)
        task = self._tasks.get(cancelled.stream)
        if task is not None:
            task.cancel()

    async def _stream(self, method: Stream, call: Http2Call, inbox: _Inbox) -> None:
        try:
            async for message in method.handle(call, inbox.messages()):
                self.session.send(call.stream, message, call.initial)
                self.transport.touch(self)
                while self.session.queued(call.stream) > SEND and not self.closed:
                    self._room.clear()
                    await self._room.wait()
        except Exception as error:  # noqa: BLE001 - as above
            call.fail(_known(call, error))
            return
        if call.end("OK"):
            self.session.finish(call.stream, "OK", "", call.initial, call.trailing)
            self.transport.touch(self)

    def _closed_stream(self, stream: int) -> None:
        self._inboxes.pop(stream, None)
        self._tasks.pop(stream, None)


def peer_of(link: socket.socket) -> str:
    """Returns the peer's address as gRPC prints it."""
    try:
        address = link.getpeername()
    except OSError:
        return "unknown"
    if link.family == socket.AF_INET:
        return f"ipv4:{address[0]}:{address[1]}"
    if link.family == socket.AF_INET6:
        return f"ipv6:{quote(f'[{address[0]}]', safe='')}:{address[1]}"
    return "unix:"


def _known(call: Http2Call, error: Exception) -> GnomonError:
    if isinstance(error, GnomonError):
        return error
    log.error("%s failed", call.method, exc_info=error)
    return Internal("internal error")
