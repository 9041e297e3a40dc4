"""The backlog: records that wait for the shadow, bounded by bytes."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from gnomon_server.wire.record import Record

# Bytes that a record takes beside its contents: measured for small ones, which would otherwise escape the bound.
OVERHEAD: Final = 512


class Backlog:
    """A queue that refuses what does not fit; used from one event loop only."""

    def __init__(self, limit: int, full_batch: int) -> None:
        self._limit = limit
        self._full_batch = full_batch
        self._records: deque[tuple[Record, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._some = asyncio.Event()
        self._enough = asyncio.Event()

    def __len__(self) -> int:
        return len(self._records)

    def offer(self, record: Record, size: int) -> bool:
        """Takes a record of `size` bytes; False if there is no room for it, or no more work is taken."""
        cost = size + OVERHEAD
        if self._closed or self._bytes + cost > self._limit:
            return False
        self._records.append((record, cost))
        self._bytes += cost
        self._some.set()
        if len(self._records) >= self._full_batch:
            self._enough.set()
        return True

    async def ready(self, gather: float) -> bool:
        """Waits for a record, then up to `gather` seconds for a full batch; False once closed and empty."""
        await self._some.wait()
        if not self._enough.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(gather):
                    await self._enough.wait()
        return bool(self._records) or not self._closed

    def take(self, most: int) -> list[Record]:
        """Takes up to `most` records, oldest first."""
        return [self._pop() for _ in range(min(most, len(self._records)))]

    def expire(self, before_ns: int) -> list[Record]:
        """Takes the records at the front whose call ended before a time, in nanoseconds since the epoch."""
        expired = []
        while self._records and self._records[0][0].end_ns < before_ns:
            expired.append(self._pop())
        return expired

    def close(self) -> None:
        """Takes no more records; what waits may still be taken."""
        self._closed = True
        self._some.set()
        self._enough.set()

    def _pop(self) -> Record:
        record, cost = self._records.popleft()
        self._bytes -= cost
        if not self._closed:
            if not self._records:
                self._some.clear()
            if len(self._records) < self._full_batch:
                self._enough.clear()
        return record
