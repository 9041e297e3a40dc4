"""The mirror feed: finished requests on their way to one shadow worker, in bounded memory and without waiting.

Records gather for some milliseconds and leave in one write: waking a process costs more than copying to it, and the
more requests come at once, the less each of them costs the worker. What does not fit is dropped and counted, so that a
stuck shadow costs the primary nothing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from gnomon_server.wire import hello, record
from gnomon_server.wire.counts import FeedCount
from gnomon_server.wire.plans import ShadowFeed

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.05
FLUSH_BYTES: Final = 64 << 10


class Feed:
    """The way to one life of one worker; belongs to the frontend's event loop.

    It never reconnects: a worker that comes back has another epoch and gets another feed.
    """

    def __init__(self, target: ShadowFeed, limit: int) -> None:
        self.target = target
        self._source = hello.new_source()
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._chunks: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = False
        self._selected: dict[int, int] = {}
        self._dropped: dict[int, int] = {}
        self._primary_errors: dict[int, int] = {}
        # What the worker was told of these: dropped and failed, by primary version.
        self._told: dict[int, tuple[int, int]] = {}
        self._socket: socket.socket | None = None

    async def connect(self) -> None:
        """Connects to the worker; where that fails, everything that is offered counts as dropped."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await self._loop.sock_connect(connection, self.target.address)
            # Before anything can be offered: of whom the worker never heard, it cannot say that the rest was lost.
            await self._loop.sock_sendall(connection, hello.encode(self._source) + record.mark(self.target.sample))
        except OSError as error:
            log.warning("shadow %s/%d cannot be reached: %s", self.target.model, self.target.version, error)
            connection.close()
            return
        self._socket = connection

    def aim(self, target: ShadowFeed) -> None:
        """Takes the newest wish; what is offered from now on was selected from its share of the requests."""
        if self._socket is not None and target.sample != self.target.sample:
            # However full the feed is: what stands behind it must not be counted to another share.
            self._gathered.append(record.mark(target.sample))
            self._gathered_bytes += record.MARK.size
            self._unsent_bytes += record.MARK.size
        self.target = target

    def offer(self, primary: int, records: Sequence[record.Buffers]) -> int:
        """Takes selected requests, each as its buffers, or drops those for which there is no room; returns how many."""
        if not records:
            return 0
        self._selected[primary] = self._selected.get(primary, 0) + len(records)
        gathered, room = self._gathered, 0 if self._socket is None else self._limit - self._unsent_bytes
        taken = dropped = 0
        for buffers in records:
            head, request, response = buffers
            size = len(head) + len(request) + len(response)
            if taken + size > room:
                dropped += 1
            else:
                taken += size
                gathered += buffers
        if dropped:
            self._dropped[primary] = self._dropped.get(primary, 0) + dropped
        self._gathered_bytes += taken
        self._unsent_bytes += taken
        if self._gathered_bytes >= FLUSH_BYTES:
            self.flush()
        elif self._timer is None and (gathered or dropped):
            self._flush_soon()
        return dropped

    def leave_out(self, primary: int, requests: int) -> None:
        """Counts selected requests as dropped that are not worth their way."""
        self._selected[primary] = self._selected.get(primary, 0) + requests
        self._dropped[primary] = self._dropped.get(primary, 0) + requests
        self._flush_soon()

    def primary_failed(self, primary: int, requests: int) -> None:
        """Counts selected requests to which the primary had no answer."""
        if not requests:
            return
        self._selected[primary] = self._selected.get(primary, 0) + requests
        self._primary_errors[primary] = self._primary_errors.get(primary, 0) + requests
        self._flush_soon()

    def flush(self) -> None:
        """Writes what has gathered as far as the worker takes it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._blocked and self._socket is not None:
            self._tell_losses()
        if self._gathered:
            self._chunks.append(memoryview(b"".join(self._gathered)))
            self._gathered.clear()
            self._gathered_bytes = 0
        if not self._blocked:
            self._write()

    async def drain(self, seconds: float) -> None:
        """Waits up to `seconds` until the worker has taken everything, then closes."""
        self.flush()
        deadline = self._loop.time() + seconds
        while self._chunks and self._socket is not None and self._loop.time() < deadline:
            await asyncio.sleep(FLUSH_SECONDS)
        self.close()

    def close(self) -> None:
        """Closes the connection; what was not written is lost: the worker tells control what it received."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    def counts(self) -> list[FeedCount]:
        """Returns the counts since the feed was made, one a primary version."""
        return [
            FeedCount(
                model=self.target.model,
                primary=primary,
                shadow=self.target.version,
                epoch=self.target.epoch,
                source=self._source,
                selected=selected,
                dropped=self._dropped.get(primary, 0),
                primary_error=self._primary_errors.get(primary, 0),
            )
            for primary, selected in self._selected.items()
        ]

    def _flush_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def _tell_losses(self) -> None:
        """Tells the worker what does not come, which it records; control hears of it from here, whatever happens."""
        for primary in self._dropped.keys() | self._primary_errors.keys():
            lost = self._dropped.get(primary, 0), self._primary_errors.get(primary, 0)
            told = self._told.get(primary, (0, 0))
            if lost != told:
                self._told[primary] = lost
                self._gathered.append(record.loss(record.Loss(primary, lost[0] - told[0], lost[1] - told[1])))
                self._gathered_bytes += record.LOSS.size
                self._unsent_bytes += record.LOSS.size

    def _write(self) -> None:
        connection = self._socket
        if connection is None:
            return
        try:
            while self._chunks:
                chunk = self._chunks[0]
                sent = connection.send(chunk)
                self._unsent_bytes -= sent
                if sent < len(chunk):
                    self._chunks[0] = chunk[sent:]
                else:
                    self._chunks.popleft()
        except BlockingIOError:
            self._wait_until_writable(connection)
        except OSError as error:
            log.info("shadow %s/%d went away: %s", self.target.model, self.target.version, error)
            self._chunks.clear()
            self.close()

    def _wait_until_writable(self, connection: socket.socket) -> None:
        if not self._blocked:
            self._blocked = True
            self._loop.add_writer(connection, self._writable, connection)

    def _writable(self, connection: socket.socket) -> None:
        self._loop.remove_writer(connection)
        self._blocked = False
        self._write()
