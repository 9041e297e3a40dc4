"""A pass: what arrives while the event loop turns once, and is answered together."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from gnomon_server.serving.transport import AfterPass, Call, Observer

log = logging.getLogger(__name__)


class Flushable(Protocol):
    """A connection, as a pass sees it."""

    def flush(self) -> None:
        """Writes what it has to write."""


class Passes:
    """The passes of one transport, one after the other; belongs to the event loop that it is made on."""

    def __init__(self, after_pass: AfterPass, observer: Observer) -> None:
        # When this pass began: time.perf_counter(), and nanoseconds since the epoch.
        self.now = time.perf_counter(), time.time_ns()
        self._loop = asyncio.get_running_loop()
        self._after_pass = after_pass
        self._observer = observer
        self._touched: set[Flushable] = set()
        # Calls that ended in this pass, with their statuses.
        self._ended: list[tuple[Call, str]] = []
        self._begun = False

    def touch(self, connection: Flushable) -> None:
        """Takes that a connection has something to write once this pass is over."""
        self._touched.add(connection)
        if not self._begun:
            self._begin()

    def over(self, call: Call, status: str) -> None:
        """Takes that a call has ended, to be told once this pass is over."""
        self._ended.append((call, status))
        if not self._begun:
            self._begin()

    def forget(self, connection: Flushable) -> None:
        """Takes that a connection is closed."""
        self._touched.discard(connection)

    def end(self) -> None:
        """Begins what this pass received, writes each connection's answers at once, then tells what ended."""
        try:
            self._after_pass()
        except Exception:
            # Those who wait for an answer of this pass wait on; nobody else may.
            log.exception("a pass failed")
        self._begun = False
        touched, self._touched = self._touched, set()
        for connection in touched:
            connection.flush()
        if self._ended:
            ended, self._ended = self._ended, []
            self._observer(ended)

    def _begin(self) -> None:
        self._begun = True
        self.now = time.perf_counter(), time.time_ns()
        # Not before everything that is readable now has been read.
        self._loop.call_soon(self.end)
