"""A decent client that goes on calling while others misbehave, and checks every answer."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import numpy as np

from gnomon_client import Client, ClientError

# Seconds that one good request may take; alone it takes milliseconds.
PATIENCE = 20.0


class Witness:
    """Calls from a thread of its own."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.answered = 0
        self.failures: list[str] = []

    def wait_for_more(self, count: int = 5) -> None:
        """Waits until more of its requests have ended, however that was."""
        goal, deadline = self.answered + len(self.failures) + count, time.monotonic() + 3 * PATIENCE
        while self.answered + len(self.failures) < goal and time.monotonic() < deadline:
            self._stop.wait(0.005)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _call(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            row = np.array([[number % 1000, 0.5, -number % 1000]], np.float32)
            try:
                result = self._client.infer("line", row, timeout=PATIENCE)
            except ClientError as error:
                self.failures.append(f"a good request failed: {error}")
            else:
                if result["y"].tolist() == (row * 2).tolist():
                    self.answered += 1
                else:
                    self.failures.append(f"a good request got {result['y']} for {row}")
            self._stop.wait(0.01)
