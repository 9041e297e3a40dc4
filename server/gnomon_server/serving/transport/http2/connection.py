"""One client's connection: a socket, its session, and how long both last."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Callable
from typing import Final

from gnomon_server.serving.transport.http2.calls import Calls
from gnomon_server.serving.transport.http2.common import Common
from gnomon_server.serving.transport.http2.secure import Secure
from gnomon_server.serving.transport.http2.session import Session

log = logging.getLogger(__name__)

# Bytes that are taken from the session at once.
SEND: Final = 1 << 20
# Seconds in which a client hears of a shutdown, before later calls are no longer taken.
NOTICE: Final = 1.0
# Seconds for which a connection that has ended still reads: a socket that is closed with bytes unread is reset, and
# the client may lose what was said last.
LINGER: Final = 1.0


class Connection:
    """A connected client; belongs to the transport's event loop."""

    def __init__(
        self,
        common: Common,
        link: socket.socket,
        peer: str,
        secure: Secure | None,
        closed: Callable[[Connection], None],
    ) -> None:
        """Takes whom to tell once it is closed."""
        self._common = common
        self._loop = asyncio.get_running_loop()
        self._peer = peer
        self._told = closed
        self._session = Session(common.unary, common.limits)
        self._calls = Calls(common, self._session, peer, self, lambda: len(self._unsent))
        self._socket = link
        self._secure = secure
        self._unsent = memoryview(b"")
        self._writing = self._paused = self._retiring = self._lingering = self._closed = False
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
        self._calls.written()
        if self._paused and not self._session.full:
            self._paused = False
            self._loop.add_reader(self._socket, self._readable)
        if self._session.broken and not self._writing:
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
        self._calls.abandon()
        self._common.passes.forget(self)
        self._told(self)

    def retire(self) -> None:
        """Sends the client elsewhere: calls that are on the way are still taken, then the connection ends."""
        if not self._retiring:
            self._retiring = True
            self._session.announce_shutdown()
            self._common.passes.touch(self)
            self._timer = self._loop.call_later(NOTICE, self._last_call)

    def check(self, now: float) -> None:
        """Ends the connection if one of its times is over."""
        limits = self._common.limits
        if self._secure is not None and not self._secure.ready:
            if now - self._since > limits.handshake_seconds:
                self.close()
            return
        if self._session.calls or self._session.begun != self._begun:
            self._begun, self._quiet_since = self._session.begun, now
        old = limits.age_seconds is not None and now - self._since > limits.age_seconds * self._jitter
        idle = limits.idle_seconds is not None and now - self._quiet_since > limits.idle_seconds
        if old or idle:
            self.retire()

    def probe(self) -> None:
        """Closes the connection if its client has vanished.

        uvloop tells of a reset only once, and not of what came before it: who reads that hears no more.
        """
        if self._closed:
            return
        try:
            waits = self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            waits = b""
        if not waits:
            self.close()
        elif not self._paused:
            # Of more than one read can take, the rest may lie there unheard of; its end comes with a later turn.
            self._readable()

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
            return self._session.bytes_to_send(SEND)
        return self._secure.sealed(self._session.bytes_to_send(SEND) if self._secure.ready else b"")

    def _readable(self) -> None:
        try:
            size = self._socket.recv_into(self._common.buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.close()
        elif not self._lingering:
            self._common.passes.touch(self)
            data = self._common.buffer[:size]
            if self._secure is None:
                self._receive(data)
            else:
                self._unseal(self._secure, data)

    def _unseal(self, secure: Secure, data: memoryview) -> None:
        try:
            plain, ended = secure.received(data)
        except ssl.SSLError as error:
            log.info("%s: no TLS connection: %s", self._peer, getattr(error, "reason", None) or error)
            # The alert, if there is one, is written before the end.
            self._session.broken = True
            return
        if plain:
            self._receive(plain)
        if ended:
            self.close()

    def _receive(self, data: bytes | memoryview) -> None:
        self._calls.take(self._session.receive(data))
        if self._session.full and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._socket)

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket)
        self._writing = False
        self.flush()

    def _last_call(self) -> None:
        """Takes no calls any more; whether the client has heard of that or not."""
        self._session.shut_down()
        self._common.passes.touch(self)
        self._timer = self._loop.call_later(self._common.limits.grace_seconds, self.close)

    def _end(self) -> None:
        """Takes that all is said; lets the client read it."""
        self._lingering = True
        self._calls.abandon()
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._timer = self._loop.call_later(LINGER, self.close)
