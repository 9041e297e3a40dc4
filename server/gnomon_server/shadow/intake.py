"""The intake: a Unix socket on which frontends hand over mirror records."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import struct
import termios
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gnomon_server.wire import hello, record
from gnomon_server.wire.record import Record

log = logging.getLogger(__name__)

# Takes a record and its size in bytes; must not block.
Sink = Callable[[Record, int], None]
LossSink = Callable[[record.Loss], None]
_TOTAL: Final = struct.Struct("<I")
_INT: Final = struct.Struct("i")


class Malformed(ValueError):
    """A stream that is not a hello and records."""


@dataclass(frozen=True)
class Arrivals:
    """What has been received of one source."""

    source: str
    # Records by primary version.
    received: Mapping[int, int]
    # Whether nothing more can come.
    ended: bool


class Cutter:
    """Cuts one stream into records; joins chunks only once a whole record is there, so that no byte moves twice."""

    def __init__(self) -> None:
        # As the hello names it; empty before.
        self.source = ""
        # Share of the requests that the next record was selected from.
        self._sample = 1.0
        # What does not come, as the source told since somebody last emptied this.
        self.losses: list[record.Loss] = []
        self._parts: list[bytes] = []
        self._have = 0
        # Bytes without which nothing more can be cut.
        self._need = hello.SIZE

    def feed(self, chunk: bytes) -> Iterator[tuple[Record, int]]:
        """Yields each record that the chunk completes, with its size; raises Malformed."""
        self._parts.append(chunk)
        self._have += len(chunk)
        while self._have >= self._need:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            offset = 0 if self.source else self._greet(data)
            while (size := self._next_size(data, offset)) is not None:
                if size == record.MARK.size:
                    _, self._sample = record.MARK.unpack_from(data, offset)
                elif size == record.LOSS.size:
                    self.losses.append(record.Loss(*record.LOSS.unpack_from(data, offset)[1:]))
                else:
                    found = record.decode(data, offset, self._sample)
                    if found is None:
                        raise Malformed(f"expected a whole record of {size} bytes")
                    yield found[0], size
                offset += size
            self._parts = [data[offset:]]
            self._have = len(data) - offset

    def _greet(self, data: bytes) -> int:
        """Returns where the records begin."""
        source = hello.decode(data)
        if source is None:
            raise Malformed(f"expected a hello, received {data[: hello.SIZE]!r}")
        self.source = source
        return hello.SIZE

    def _next_size(self, data: bytes, offset: int) -> int | None:
        """Returns the size of the record at `offset`, or None, having noted what is needed, if it is incomplete."""
        rest = len(data) - offset
        # No more: what tells of a loss is shorter than a record, and may be the last for long.
        self._need = _TOTAL.size
        if rest < self._need:
            return None
        (total,) = _TOTAL.unpack_from(data, offset)
        if total < record.HEAD.size and total not in (record.MARK.size, record.LOSS.size):
            raise Malformed(f"expected a record of at least {record.HEAD.size} bytes, received {total}")
        if rest < total:
            self._need = total
            return None
        return int(total)


class _Connection(asyncio.Protocol):
    """One frontend's stream; what it had not finished when it died is lost with it."""

    # Set before anything else happens.
    transport: asyncio.Transport

    def __init__(self, sink: Sink, lost: LossSink, connections: set[_Connection]) -> None:
        self._sink = sink
        self._lost = lost
        self._connections = connections
        self._cutter = Cutter()
        self._received: Counter[int] = Counter()
        self._ended = False

    @property
    def arrivals(self) -> Arrivals:
        return Arrivals(self._cutter.source, dict(self._received), self._ended)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream server gives nothing else
        self.transport = transport
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            for received, size in self._cutter.feed(data):
                self._received[received.primary] += 1
                self._sink(received, size)
        except Malformed as error:
            log.error("mirror feed closed: %s", error)
            self.transport.abort()
        losses, self._cutter.losses = self._cutter.losses, []
        for loss in losses:
            self._lost(loss)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        # Everything that the other end wrote was read before, unless the stream was malformed.
        self._ended = True


class Intake:
    """The listening socket and its connections; owned by the event loop that opened it."""

    def __init__(self, sink: Sink, address: str, lost: LossSink = lambda _: None) -> None:
        """Takes what takes records, where to listen, and what takes word of requests that do not come."""
        self._sink = sink
        self._lost = lost
        self._address = address
        # Those that ended stay until their last counts were taken.
        self._connections: set[_Connection] = set()
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Listens; a socket that a dead worker left at the address is replaced. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Connection(self._sink, self._lost, self._connections), self._address
        )

    def arrivals(self) -> list[Arrivals]:
        """Returns the counts so far of every source; one that has ended is in it once, and then forgotten."""
        found = [connection.arrivals for connection in self._connections]
        self._connections -= {connection for connection in self._connections if connection.arrivals.ended}
        return [arrivals for arrivals in found if arrivals.source]

    async def drain(self, grace: float) -> None:
        """Stops accepting, reads what was written already, for at most `grace` seconds, and closes every connection."""
        try:
            async with asyncio.timeout(grace):
                await self._read_the_rest()
        except TimeoutError:
            log.warning("mirror feeds still written to after %g s", grace)
        self.close()

    async def _read_the_rest(self) -> None:
        # Connections that wait to be accepted are accepted by the next pass of the loop, and read by the one after.
        for _ in range(3):
            await asyncio.sleep(0)
        self._stop_accepting()
        while any(_unread(connection.transport) for connection in self._connections):
            await asyncio.sleep(0)

    def _stop_accepting(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            Path(self._address).unlink(missing_ok=True)

    def close(self) -> None:
        """Stops at once, whatever lies unread."""
        self._stop_accepting()
        for connection in self._connections:
            connection.transport.abort()


def _unread(transport: asyncio.Transport) -> int:
    """Returns how many bytes lie in a socket."""
    if transport.is_closing():
        return 0
    (unread,) = _INT.unpack(fcntl.ioctl(transport.get_extra_info("socket"), termios.FIONREAD, bytes(_INT.size)))
    return int(unread)
