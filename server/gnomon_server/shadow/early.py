"""Early labels: those whose requests are not known yet, for as long as they may wait."""

from __future__ import annotations

from typing import Final, NamedTuple

from gnomon_protos.tensors import Array
from gnomon_server.wire.labels import Label

# Labels that wait for their requests, and the bytes that they take.
MOST_WAITING: Final = 10_000
MOST_WAITING_BYTES: Final = 16 * 2**20


class Waiting(NamedTuple):
    """A label that waits."""

    label: Label
    labels: Array
    # When it came, in nanoseconds since the epoch.
    since_ns: int
    # About how many bytes it takes.
    size: int


class Early:
    """Labels by the ids of their requests, oldest first; bounded by number, bytes and time."""

    def __init__(self, wait_ns: int) -> None:
        self._wait_ns = wait_ns
        self._waiting: dict[str, Waiting] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, identity: str) -> Waiting | None:
        """Returns the label that waits for a request."""
        return self._waiting.get(identity)

    def add(self, label: Label, labels: Array, now_ns: int) -> list[Waiting]:
        """Has a label wait; returns those for which there is no room any more."""
        # A text is an object of about 64 bytes beside its characters, of which one can take four.
        size = 4 * len(label.id) + sum(64 + 4 * len(text) for text in label.labels)
        self._waiting[label.id] = Waiting(label, labels, now_ns, size)
        self._size += size
        given_up = []
        while len(self._waiting) > MOST_WAITING or self._size > MOST_WAITING_BYTES:
            given_up.append(self._first())
        return given_up

    def pop(self, identity: str) -> Waiting | None:
        """Takes the label that waits for a request away."""
        found = self._waiting.pop(identity, None)
        self._size -= found.size if found is not None else 0
        return found

    def expired(self, now_ns: int) -> list[Waiting]:
        """Takes those away that have waited for long enough."""
        found = []
        while self._waiting and next(iter(self._waiting.values())).since_ns + self._wait_ns <= now_ns:
            found.append(self._first())
        return found

    def clear(self) -> list[Waiting]:
        """Takes all away."""
        return [self._first() for _ in range(len(self._waiting))]

    def _first(self) -> Waiting:
        found = self._waiting.pop(next(iter(self._waiting)))
        self._size -= found.size
        return found
