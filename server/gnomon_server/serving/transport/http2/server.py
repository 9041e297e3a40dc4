"""The HTTP/2 transport: it listens, takes connections, and sends them elsewhere when it drains."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from dataclasses import replace
from typing import Final

from gnomon_server.errors import InvalidRequest
from gnomon_server.serving.transport import AfterPass, Methods, Observer, Unary
from gnomon_server.serving.transport.http2.call import Http2Call
from gnomon_server.serving.transport.http2.common import Common
from gnomon_server.serving.transport.http2.connection import Connection
from gnomon_server.serving.transport.http2.deadlines import Deadlines
from gnomon_server.serving.transport.http2.limits import Limits
from gnomon_server.serving.transport.http2.listening import listen, peer_of, prepare
from gnomon_server.serving.transport.http2.passes import Passes
from gnomon_server.serving.transport.http2.secure import Secure
from gnomon_server.serving.transport.tls import Reloaded, Tls, context

log = logging.getLogger(__name__)

# Bytes that are read at once.
RECEIVE: Final = 256 << 10
# Connections that are taken before anything else gets its turn.
ACCEPT: Final = 64
# Seconds until the next attempt, once no connection can be taken for want of file descriptors.
RECOVER: Final = 0.2
# Seconds between two looks at the connections' times, and looks in which each connection has its turn to be probed.
SWEEP: Final = 0.5
TURNS: Final = 20


class Http2Transport:
    """Serves a method table on one address, which other processes may share."""

    def __init__(
        self,
        methods: Methods,
        observer: Observer,
        after_pass: AfterPass,
        address: str,
        max_message_bytes: int,
        tls: Tls | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Raises InvalidRequest if the files for TLS cannot be used. `max_message_bytes` overrides the limits'."""
        self._loop = asyncio.get_running_loop()
        handlers = {f"/{name}".encode(): (name, method) for name, method in methods.items()}
        self._limits = replace(limits or Limits(), message_bytes=max_message_bytes)
        self._passes = Passes(after_pass, observer)
        self._deadlines: Deadlines[Http2Call] = Deadlines(Http2Call.expire)
        self._common = Common(
            handlers=handlers,
            unary=frozenset(path for path, (_, method) in handlers.items() if isinstance(method, Unary)),
            limits=self._limits,
            deadlines=self._deadlines,
            passes=self._passes,
            buffer=memoryview(bytearray(RECEIVE)),
        )
        self._address = address
        self._tls = None if tls is None else Reloaded(tls, context)
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._draining = False
        self._empty = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        limits = self._limits
        self._timed = tls is not None or limits.idle_seconds is not None or limits.age_seconds is not None
        # Connections that have their turn in this round, and how many of them have it at once.
        self._round: list[Connection] = []
        self._share = 0

    async def start(self) -> int:
        """Begins to listen; returns the port (1 for a Unix socket), raises InvalidRequest if the address is taken."""
        self._listener = listen(self._address)
        self._loop.add_reader(self._listener, self._accept)
        self._sweep()
        # A Unix socket has no port; what grpc says then is kept.
        return 1 if self._listener.family == socket.AF_UNIX else int(self._listener.getsockname()[1])

    async def drain(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for those in flight, then closes."""
        self._draining = True
        if self._listener is not None:
            # Connections that the kernel has completed already are taken, and told to go elsewhere.
            while self._accept():
                pass
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in tuple(self._connections):
            connection.retire()
        if self._connections and grace > 0:
            self._empty.clear()
            try:
                await asyncio.wait_for(self._empty.wait(), grace)
            except TimeoutError:
                log.warning("%d connections had unfinished calls as they were closed", len(self._connections))
        # What was answered just now, and the farewell.
        self._passes.end()
        for connection in tuple(self._connections):
            connection.close()
        self._passes.end()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._deadlines.close()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _accept(self) -> bool:
        """Takes the connections that wait; returns whether there may be more."""
        if self._listener is None:
            return False
        for _ in range(ACCEPT):
            try:
                link, _address = self._listener.accept()
            except BlockingIOError:
                return False
            except ConnectionError:
                # Given up before it was taken.
                continue
            except OSError as error:
                log.warning("cannot accept, the next attempt is in %s s: %s", RECOVER, error.strerror)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(RECOVER, self._accept_again)
                return False
            self._take(link)
        return True

    def _accept_again(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _take(self, link: socket.socket) -> None:
        try:
            prepare(link)
            secure = None if self._tls is None else Secure(self._context(self._tls))
        except OSError:
            # Gone already.
            link.close()
            return
        connection = Connection(self._common, link, peer_of(link), secure, self._forget)
        self._connections.add(connection)
        if self._draining:
            connection.retire()
        self._passes.touch(connection)

    def _context(self, tls: Reloaded[ssl.SSLContext]) -> ssl.SSLContext:
        try:
            if tls.renew():
                log.info("tls: certificate loaded again")
        except InvalidRequest as error:
            log.error("%s; the last one stays in use", error)
        return tls.value

    def _sweep(self) -> None:
        if self._timed:
            now = self._loop.time()
            for connection in tuple(self._connections):
                connection.check(now)
        self._probe()
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    def _probe(self) -> None:
        """Looks for clients that have vanished, at some of the connections, so that nobody waits for it."""
        if not self._round:
            self._round = list(self._connections)
            self._share = -(-len(self._round) // TURNS)
        for connection in self._round[-self._share :]:
            connection.probe()
        del self._round[-self._share :]
