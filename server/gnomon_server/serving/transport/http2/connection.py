"""One client's connection: a socket, its session, and the calls on it."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from gnomon_server.errors import DeadlineExceeded, GnomonError, Internal, NotOffered
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
from gnomon_server.serving.transport.http2.call import Http2Call, Inbox
from gnomon_server.serving.transport.http2.secure import Secure
from gnomon_server.serving.transport.http2.session import Session

if TYPE_CHECKING:
    from gnomon_server.serving.transport.http2.server import Http2Transport

log = logging.getLogger(__name__)

# Bytes that are taken from the session at once, and that a stream may have waiting before its handler pauses.
SEND: Final = 1 << 20
# Answers up to this size cannot amount to much, as the number of calls at a time is limited.
LARGE: Final = 16 << 10
OTHER: Final = "_OTHER"
# Seconds in which a client hears of a shutdown, before later calls are no longer taken.
NOTICE: Final = 1.0
# Seconds for which a connection that has ended still reads: a socket that is closed with bytes unread is reset, and
# the client may lose what was said last.
LINGER: Final = 1.0


class Connection:
    """A connected client; belongs to the transport's event loop."""

    def __init__(self, transport: Http2Transport, link: socket.socket, peer: str, secure: Secure | None) -> None:
        self._transport = transport
        self._loop = transport.loop
        self.peer = peer
        self.session = Session(transport.unary, transport.limits)
        self._calls: dict[int, Http2Call] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        # What waits until the client takes more of its answers.
        self._backlog: deque[Arrival] = deque()
        self._socket = link
        self._secure = secure
        self._unsent = memoryview(b"")
        # So much waits for the client to read that its next requests have to wait too.
        self._stuck = False
        self._writing = self._paused = self._retiring = self._lingering = self._closed = False
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._since = self._quiet_since = self._loop.time()
        self._jitter = random.uniform(0.9, 1.1)  # noqa: S311 - not for secrets
        self._begun = 0
        self._loop.add_reader(link, self._readable)

    def flush(self) -> None:
        """Writes what the session has, as far as the socket takes it."""
        if self._closed or self._lingering or self._writing:
            return
        try:
            self._write()
        except BlockingIOError:
            self._writing = True
            self._loop.add_writer(self._socket, self._writable)
        except OSError:
            self.close()
            return
        if self._tasks:
            self._room.set()
        if self._stuck:
            self._work_off()
        if self._paused and not self.session.full:
            self._paused = False
            self._loop.add_reader(self._socket, self._readable)
        if self.session.broken and not self._writing:
            self._end()

    def close(self) -> None:
        """Closes the socket; calls on it are cancelled."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._abandon()
        self._transport.forget(self)

    def retire(self) -> None:
        """Sends the client elsewhere: calls that are on the way are still taken, then the connection ends."""
        if not self._retiring:
            self._retiring = True
            self.session.announce_shutdown()
            self._transport.touch(self)
            self._timer = self._loop.call_later(NOTICE, self._last_call)

    def check(self, now: float) -> None:
        """Ends the connection if one of its times is over."""
        limits = self._transport.limits
        if self._secure is not None and not self._secure.ready:
            if now - self._since > limits.handshake_seconds:
                self.close()
            return
        if self.session.calls or self.session.begun != self._begun:
            self._begun, self._quiet_since = self.session.begun, now
        old = limits.age_seconds is not None and now - self._since > limits.age_seconds * self._jitter
        idle = limits.idle_seconds is not None and now - self._quiet_since > limits.idle_seconds
        if old or idle:
            self.retire()

    def answer(self, call: Http2Call, message: bytes) -> None:
        """Ends a unary call with OK."""
        call.ended = True
        self.session.answer(call.stream, message, call.initial, call.trailing)
        if len(message) > LARGE and self._clogged:
            self._stuck = True
        self._over(call, "OK")

    def finish(self, call: Http2Call, status: str, text: str) -> None:
        """Ends a call with a status."""
        call.ended = True
        self.session.finish(call.stream, status, status_text(text), call.initial, call.trailing)
        self._over(call, status)

    def expire(self, call: Http2Call) -> None:
        """Ends a call whose deadline has passed."""
        task = self._tasks.get(call.stream)
        call.fail(DeadlineExceeded("the call's deadline passed"))
        if task is not None:
            task.cancel()

    def consumed(self, stream: int, message: bytes) -> None:
        """Takes that a handler has taken a message."""
        self.session.consumed(stream, message)
        self._transport.touch(self)

    @property
    def _clogged(self) -> bool:
        """Whether so much waits for the client to read that its next requests have to wait too."""
        return self.session.unsent + len(self._unsent) > self._transport.limits.waiting_bytes

    def _over(self, call: Http2Call, status: str) -> None:
        self._calls.pop(call.stream, None)
        if call.tick:
            self._transport.deadlines.remove(call, call.tick)
        self._transport.touch(self)
        self._transport.over(call, status)

    def _write(self) -> None:
        more = True
        while more or self._unsent:
            if not self._unsent:
                data = self._next()
                self._unsent, more = memoryview(data), len(data) >= SEND
                if not data:
                    return
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def _next(self) -> bytes:
        if self._secure is None:
            return self.session.bytes_to_send(SEND)
        return self._secure.sealed(self.session.bytes_to_send(SEND) if self._secure.ready else b"")

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._transport.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.close()
        elif not self._lingering:
            self._transport.touch(self)
            data = self._transport.buffer[:size]
            if self._secure is None:
                self._receive(data)
            else:
                self._unseal(self._secure, data)

    def _unseal(self, secure: Secure, data: memoryview) -> None:
        try:
            plain, ended = secure.received(data)
        except ssl.SSLError as error:
            log.info("%s: no TLS connection: %s", self.peer, getattr(error, "reason", None) or error)
            # The alert, if there is one, is written before the end.
            self.session.broken = True
            return
        if plain:
            self._receive(plain)
        if ended:
            self.close()

    def _receive(self, data: bytes | memoryview) -> None:
        for arrival in self.session.receive(data):
            if self._stuck:
                self._backlog.append(arrival)
            elif type(arrival) is Whole:
                self._call(arrival)
            else:
                self._take(arrival)
        if self.session.full and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def _work_off(self) -> None:
        self._stuck = self._clogged
        if not self._stuck:
            self._transport.touch(self)
        while self._backlog and not self._stuck:
            arrival = self._backlog.popleft()
            if isinstance(arrival, Whole | Opened) and not self.session.alive(arrival.stream):
                self._never_begun(arrival)
            else:
                self._take(arrival)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket)
        self._writing = False
        self.flush()

    def _last_call(self) -> None:
        """Takes no calls any more; whether the client has heard of that or not."""
        self.session.shut_down()
        self._transport.touch(self)
        self._timer = self._loop.call_later(self._transport.limits.grace_seconds, self.close)

    def _end(self) -> None:
        """Takes that all is said; lets the client read it."""
        self._lingering = True
        self._abandon()
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._timer = self._loop.call_later(LINGER, self.close)

    def _abandon(self) -> None:
        self._room.set()
        for arrival in self.session.gone():
            self._take(arrival)
        for arrival in self._backlog:
            if isinstance(arrival, Whole | Opened):
                self._never_begun(arrival)
        self._backlog.clear()

    def _never_begun(self, arrival: Whole | Opened) -> None:
        """Takes that a call was cancelled before its handler heard of it."""
        self._observe(Refused(arrival.headers, arrival.path, "CANCELLED"))

    def _observe(self, refused: Refused) -> None:
        name, _ = self._transport.handlers.get(refused.path, (OTHER, None))
        call = Http2Call(self, 0, refused.headers, name, None, b"", self._transport.now)
        self._transport.over(call, refused.status)

    def _take(self, arrival: Arrival) -> None:
        if isinstance(arrival, Whole):
            self._call(arrival)
        elif isinstance(arrival, Message):
            inbox = self._inboxes.get(arrival.stream)
            if inbox is not None:
                inbox.put(arrival.message)
        elif isinstance(arrival, Opened):
            self._open(arrival)
        elif isinstance(arrival, HalfClosed):
            inbox = self._inboxes.get(arrival.stream)
            if inbox is not None:
                inbox.put(None)
        elif isinstance(arrival, Cancelled):
            self._cancel(arrival)
        elif isinstance(arrival, Refused):
            self._observe(arrival)

    def _call(self, whole: Whole) -> None:
        stream, headers, path, timeout, message = whole
        name, method = self._transport.handlers[path]
        call = self._calls[stream] = Http2Call(self, stream, headers, name, timeout, message, self._transport.now)
        if timeout is not None:
            call.tick = self._transport.deadlines.add(call, timeout)
        try:
            assert isinstance(method, Unary)  # noqa: S101 - the session delivers nothing else as a whole
            method.handle(call)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status, never a stack trace
            call.fail(_known(call, error))

    def _open(self, opened: Opened) -> None:
        stream = opened.stream
        name, method = self._transport.handlers.get(opened.path, (OTHER, None))
        call = self._calls[stream] = Http2Call(
            self, stream, opened.headers, name, opened.timeout, b"", self._transport.now
        )
        if opened.timeout is not None:
            call.tick = self._transport.deadlines.add(call, opened.timeout)
        if not isinstance(method, Stream):
            shown = opened.path.rpartition(b"/")[2].decode("ascii", "backslashreplace")[:64]
            call.fail(NotOffered(f"method '{shown}' is not offered"))
            return
        inbox = self._inboxes[stream] = Inbox(self, stream)
        task = self._tasks[stream] = asyncio.create_task(self._stream(method, call, inbox))
        task.add_done_callback(lambda _: self._forget_stream(stream))

    def _cancel(self, cancelled: Cancelled) -> None:
        call = self._calls.get(cancelled.stream)
        if call is not None:
            call.ended = True
            self._over(call, broken_off(call) if cancelled.status == "CANCELLED" else cancelled.status)
        task = self._tasks.get(cancelled.stream)
        if task is not None:
            task.cancel()

    async def _stream(self, method: Stream, call: Http2Call, inbox: Inbox) -> None:
        try:
            async with aclosing(method.handle(call, inbox.messages())) as answers:  # type: ignore[type-var]
                async for message in answers:
                    await self._send(call, message)
        except Exception as error:  # noqa: BLE001 - as above
            call.fail(_known(call, error))
        else:
            if not call.ended:
                self.finish(call, "OK", "")

    async def _send(self, call: Http2Call, message: bytes) -> None:
        """Sends a message; returns once there is room for the next."""
        self.session.send(call.stream, message, call.initial)
        self._transport.touch(self)
        while not call.ended and (self.session.queued(call.stream) > SEND or self._clogged):
            self._room.clear()
            await self._room.wait()

    def _forget_stream(self, stream: int) -> None:
        self._inboxes.pop(stream, None)
        self._tasks.pop(stream, None)


def _known(call: Http2Call, error: Exception) -> GnomonError:
    if isinstance(error, GnomonError):
        return error
    log.error("%s failed", call.method, exc_info=error)
    return Internal("internal error")
