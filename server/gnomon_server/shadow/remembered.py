"""Remembered requests: the newest that a label can be joined to; bounded by number, bytes and age."""

from __future__ import annotations

from sys import getsizeof

from gnomon_server.settings import FeedbackSettings
from gnomon_server.shadow.joined import Request


class Remembered:
    """Requests by id, the oldest comparison first; their pairs count those that are forgotten."""

    def __init__(self, settings: FeedbackSettings) -> None:
        self._most, self._most_bytes = settings.keep, settings.keep_bytes
        # 0: for as long as there is room.
        self._age_ns = round(settings.keep_seconds * 1e9)
        self._requests: dict[str, Request] = {}
        self._bytes = 0

    def __contains__(self, identity: str) -> bool:
        return identity in self._requests

    def get(self, identity: str) -> Request | None:
        """Returns the request that has an id."""
        return self._requests.get(identity)

    def add(self, identity: str, request: Request) -> None:
        """Remembers a request under an id that no other has; `fit` makes room."""
        self._requests[identity] = request
        request.size += getsizeof(identity)
        self._bytes += request.size

    def grow(self, request: Request, size: int) -> None:
        """Takes that a request takes more bytes than before."""
        request.size += size
        self._bytes += size

    def fit(self, now_ns: int) -> None:
        """Forgets the oldest until there is room for the others, and those that are too old."""
        while len(self._requests) > self._most or self._bytes > self._most_bytes:
            self._forget()
        while self._age_ns and self._requests and self._first.end_ns + self._age_ns <= now_ns:
            self._forget()

    @property
    def _first(self) -> Request:
        return next(iter(self._requests.values()))

    def _forget(self) -> None:
        request = self._requests.pop(next(iter(self._requests)))
        self._bytes -= request.size
        request.forget()
        request.pair.forgotten += request.labels is None
