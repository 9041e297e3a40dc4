"""The loop around the sessions: it accepts, reads whatever is readable, and answers in one write a connection."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from gnomon_server.errors import InvalidRequest
from gnomon_server.serving.transport import AfterPass, Methods, Observer, Unary
from gnomon_server.serving.transport.http2.connection import Connection, Http2Call, peer_of
from gnomon_server.serving.transport.http2.deadlines import Deadlines
from gnomon_server.serving.transport.http2.session import Limits

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
# Connections that are taken before anything else gets its turn.
ACCEPT: Final = 64
# Seconds in which clients learn of a shutdown before calls on the way are no longer taken.
NOTICE: Final = 0.25
CLOSING: Final = 0.01


class Http2Transport:
    """Serves a method table on one address, which other processes may share."""

    def __init__(
        self, methods: Methods, observer: Observer, after_pass: AfterPass, address: str, max_message_bytes: int
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.methods = methods
        self.observer = observer
        self.unary = frozenset(f"/{name}" for name, method in methods.items() if isinstance(method, Unary))
        self.limits = Limits(message_bytes=max_message_bytes)
        self.deadlines: Deadlines[Http2Call] = Deadlines(_expire)
        self._after_pass = after_pass
        self._address = address
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._touched: set[Connection] = set()
        self._scheduled = False
        self._draining = False

    async def start(self) -> int:
        """Begins to listen; returns the port (0 for a Unix socket), raises InvalidRequest if the address is taken."""
        self._listener = _listen(self._address)
        self.loop.add_reader(self._listener, self._accept)
        return 0 if self._listener.family == socket.AF_UNIX else int(self._listener.getsockname()[1])

    async def drain(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for those in flight, then closes."""
        self._draining = True
        if self._listener is not None:
            # Connections that the kernel has completed already are taken, and told to go elsewhere.
            self._accept()
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        deadline = self.loop.time() + grace
        for connection in tuple(self._connections):
            connection.session.announce_shutdown()
            self.touch(connection)
        await asyncio.sleep(min(NOTICE, grace))
        for connection in tuple(self._connections):
            connection.session.shut_down()
            self.touch(connection)
        while any(connection.calls for connection in self._connections) and self.loop.time() < deadline:
            await asyncio.sleep(CLOSING)
        self._end_pass()
        for connection in tuple(self._connections):
            connection.close()
        self.deadlines.close()

    def touch(self, connection: Connection) -> None:
        """Takes that a connection has something to write once this pass is over."""
        self._touched.add(connection)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._end_pass)

    def forget(self, connection: Connection) -> None:
        """Takes that a connection is closed."""
        self._connections.discard(connection)
        self._touched.discard(connection)

    def _end_pass(self) -> None:
        """Begins what this pass received, then writes each connection's answers at once."""
        try:
            self._after_pass()
        finally:
            self._scheduled = False
        touched, self._touched = self._touched, set()
        for connection in touched:
            connection.flush()

    def _accept(self) -> None:
        if self._listener is None:
            return
        for _ in range(ACCEPT):
            try:
                link, _address = self._listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                # Out of file descriptors: those who wait in the backlog are taken when some come back.
                log.warning("cannot accept: %s", error)
                return
            link.setblocking(False)
            if link.family != socket.AF_UNIX:
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, link, peer_of(link))
            self._connections.add(connection)
            if self._draining:
                connection.session.announce_shutdown()
            self.touch(connection)


def _expire(call: Http2Call) -> None:
    call.expire()


def _listen(address: str) -> socket.socket:
    try:
        if address.startswith("unix:"):
            return _listen_unix(Path(address.removeprefix("unix:")))
        host, _, port = address.rpartition(":")
        name = host.removeprefix("[").removesuffix("]")
        family, kind, protocol, _, resolved = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0]
        with ExitStack() as undone:
            listener = undone.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(resolved)
            listener.listen(BACKLOG)
            undone.pop_all()
    except (OSError, ValueError):
        raise InvalidRequest(f"cannot listen on {address}: in use, or not an address of this host") from None
    listener.setblocking(False)
    return listener


def _listen_unix(path: Path) -> socket.socket:
    # A socket file that a killed server left behind is in the way of the next one.
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
