"""The demo's application: a process of its own that asks for predictions at a steady rate and counts the answers.

`python -m gnomon_server.cli.demo.traffic ADDRESS RATE` prints its counts as a line of JSON four times a second and
stops when its standard input closes.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from gnomon_client import Client, ClientError
from gnomon_server.cli.demo import flights

MODEL: Final = "flights"
REPORT_SECONDS: Final = 0.25
SEED: Final = 7
# Requests over which the shown rate and latency are taken.
RECENT: Final = 1000


class Counts(msgspec.Struct, frozen=True):
    """What the application saw since it began."""

    answered: int
    failed: int
    # Version to answered requests and to rows, and to the rows that turned out right.
    requests: Mapping[str, int]
    rows: Mapping[str, int]
    right: Mapping[str, int]
    # Of the recent requests: a second, and seconds.
    rate: float
    p50: float
    p99: float
    # The text of the latest failure.
    error: str = ""


class Application:
    """Sends one request after the other, as a service with one worker does."""

    def __init__(self, client: Client, rate: float) -> None:
        self._client = client
        self._pause = 1 / rate
        self._requests: Counter[str] = Counter()
        self._rows: Counter[str] = Counter()
        self._right: Counter[str] = Counter()
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._failed = 0
        self._error = ""

    def run(self, traffic: flights.Flights, stop: threading.Event) -> None:
        """Asks until it is told to stop, printing the counts."""
        due = time.perf_counter()
        shown = due
        for number, request in enumerate(flights.requests(traffic, SEED)):
            if stop.is_set():
                break
            self._ask(f"flight-{number}", request)
            now = time.perf_counter()
            if now - shown >= REPORT_SECONDS:
                shown = now
                self._show()
            # A request that is late does not make the next ones hurry.
            due = max(due + self._pause, now - self._pause)
            time.sleep(max(0.0, due - now))
        self._show()

    def _ask(self, request_id: str, request: flights.Request) -> None:
        start = time.perf_counter()
        try:
            answer = self._client.infer(MODEL, request.features, request_id=request_id)
        except ClientError as error:
            self._failed += 1
            self._error = f"{error.status}: {error.details}"
            return
        now = time.perf_counter()
        self._recent.append((now, now - start))
        self._requests[answer.version] += 1
        self._rows[answer.version] += len(request)
        self._right[answer.version] += int(np.sum(np.asarray(answer["label"]) == request.late))

    def _show(self) -> None:
        times = [seconds for _, seconds in self._recent] or [0.0]
        span = self._recent[-1][0] - self._recent[0][0] if len(self._recent) > 1 else 0.0
        counts = Counts(
            answered=self._requests.total(),
            failed=self._failed,
            requests=self._requests,
            rows=self._rows,
            right=self._right,
            rate=(len(self._recent) - 1) / span if span else 0.0,
            p50=float(np.quantile(times, 0.5)),
            p99=float(np.quantile(times, 0.99)),
            error=self._error,
        )
        sys.stdout.write(msgspec.json.encode(counts).decode() + "\n")
        sys.stdout.flush()


def main() -> int:
    """Runs the process."""
    address, rate = sys.argv[1], float(sys.argv[2])
    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    traffic = flights.load().months(*flights.TRAFFIC)
    with Client(address) as client:
        Application(client, rate).run(traffic, stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
