"""Load on a server: client threads that send until they are told to stop, and what became of every request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gnomon_client import Client, ClientError, Retries

Rows = NDArray[np.float32]
# Seconds between two requests of one thread: shadows have the lowest priority and need a share of the cores too.
PACE = 0.004


@dataclass(frozen=True)
class Answer:
    """One answered request."""

    id: str
    version: int
    x: Rows
    y: Rows


def ordinary(number: int) -> Rows:
    """One row of small numbers that differ from request to request."""
    return np.full((1, 3), (number % 7) / 16, np.float32)


def leading(value: float, every: int) -> Callable[[int], Rows]:
    """Returns rows whose first number is `value` in every so many requests, and else 0."""

    def row(number: int) -> Rows:
        return np.array([[value if number % every == 0 else 0.0, 0.25, number % 5]], np.float32)

    return row


class Load:
    """Client threads on one model, each with a connection of its own, without retries; for a `with` block."""

    def __init__(
        self,
        address: str,
        model: str,
        row: Callable[[int], Rows] = ordinary,
        *,
        threads: int = 3,
        name: str = "r",
        pace: float = PACE,
        metadata: Mapping[str, str | bytes] | None = None,
    ) -> None:
        self._model, self._row, self._name, self._pace = model, row, name, pace
        self._clients = [Client(address, retries=Retries(0), timeout=30, metadata=metadata) for _ in range(threads)]
        self._threads = [threading.Thread(target=self._send, args=(n, c)) for n, c in enumerate(self._clients)]
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self.failures: list[tuple[str, str]] = []

    @property
    def ids(self) -> list[str]:
        """The ids of all requests that ended."""
        return [answer.id for answer in self.answers] + [request_id for request_id, _ in self.failures]

    @property
    def ended(self) -> int:
        """How many requests ended so far."""
        return len(self.answers) + len(self.failures)

    def reach(self, count: int, seconds: float = 60) -> None:
        """Waits until this many more requests have ended."""
        goal, deadline = self.ended + count, time.monotonic() + seconds
        while self.ended < goal:
            assert time.monotonic() < deadline, f"only {self.ended} of {goal} requests ended; {self.failures[:3]}"
            assert any(thread.is_alive() for thread in self._threads), "every client thread has died"
            self._stop.wait(0.01)

    def stop(self) -> Self:
        """Sends no more; returns once every request has ended."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60)
                assert not thread.is_alive(), "a request never ended"
        for client in self._clients:
            client.close()
        return self

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _send(self, thread: int, client: Client) -> None:
        number = 0
        while not self._stop.wait(self._pace):
            request_id, x = f"{self._name}-{thread}-{number}", self._row(number)
            try:
                result = client.infer(self._model, x, request_id=request_id)
            except ClientError as error:
                self.failures.append((request_id, str(error)))
            else:
                self.answers.append(Answer(request_id, int(result.version), x, result["y"]))
            number += 1
