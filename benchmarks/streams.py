"""A gRPC load client: `python benchmarks/streams.py HOST:PORT PATH SECONDS CONNECTIONS STREAMS RATE BYTES FILE`.

With RATE 0 it keeps STREAMS calls in flight on each connection; with another it begins calls at random moments, RATE a
second on average whatever the server does, on each connection in turn. FILE holds the requests, each in its gRPC frame;
every answer must be of BYTES, which an error is not. The last line it prints is JSON: the answers, the seconds, and in
microseconds the median and 99th percentile of the latency and the 99th of how late calls were begun.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from http2 import GRPC_PREFIX, Connection, Wrong


@dataclass
class Seen:
    """What happened, in seconds."""

    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=lambda: [0.0])
    seconds: float = 0.0

    def to_json(self) -> str:
        """Returns the line that is printed."""
        median, high = np.percentile(self.latencies, (50, 99)) * 1e6
        late = np.percentile(self.late, 99) * 1e6
        figures = {"answers": len(self.latencies), "seconds": self.seconds, "p50": median, "p99": high, "late": late}
        return json.dumps(figures)


class Load:
    """Calls on some connections until the time is over and the last has ended."""

    def __init__(self, connections: Sequence[Connection], messages: Iterator[bytes], seconds: float) -> None:
        self._connections = connections
        self._messages = messages
        self._seconds = seconds
        self._seen = Seen()

    def closed(self, streams: int) -> Seen:
        """Begins a call whenever one has ended."""
        start = time.perf_counter()
        for connection in self._connections:
            self._begin(connection, streams)
        while any(connection.in_flight for connection in self._connections):
            for connection, ended in self._received(1.0):
                self._begin(connection, ended if time.perf_counter() < start + self._seconds else 0)
        self._seen.seconds = time.perf_counter() - start
        return self._seen

    def paced(self, rate: float) -> Seen:
        """Begins calls as a Poisson process does; a call that has to wait for others counts from when it was due."""
        gaps, turn = random.Random(0), cycle(self._connections)
        start = due = time.perf_counter()
        while True:
            now = time.perf_counter()
            touched = set()
            while due <= now and due < start + self._seconds:
                connection = next(turn)
                connection.begin(next(self._messages), now)
                touched.add(connection)
                self._seen.late.append(now - due)
                due += gaps.expovariate(rate)
            for connection in touched:
                connection.flush()
            over = due >= start + self._seconds
            if over and not any(connection.in_flight for connection in self._connections):
                break
            for connection, _ in self._received(1.0 if over else max(0.0, due - time.perf_counter())):
                connection.flush()
        self._seen.seconds = max(time.perf_counter() - start, self._seconds)
        return self._seen

    def _begin(self, connection: Connection, count: int) -> None:
        now = time.perf_counter()
        for _ in range(count):
            connection.begin(next(self._messages), now)
        connection.flush()

    def _received(self, timeout: float) -> Iterator[tuple[Connection, int]]:
        """Waits for answers; yields the connections that had some, with how many."""
        by_socket = {connection.socket: connection for connection in self._connections}
        for readable in select.select(list(by_socket), [], [], timeout)[0]:
            begun = by_socket[readable].receive()
            now = time.perf_counter()
            self._seen.latencies.extend(now - moment for moment in begun)
            yield by_socket[readable], len(begun)


def split(data: bytes) -> list[bytes]:
    """Returns the gRPC frames of a file."""
    frames = []
    while data:
        size = GRPC_PREFIX + int.from_bytes(data[1:GRPC_PREFIX])
        frames.append(data[:size])
        data = data[size:]
    return frames


def main() -> int:
    """Runs the command line."""
    address, path, seconds, connections, streams, rate, answer_bytes, file = sys.argv[1:]
    messages = cycle(split(Path(file).read_bytes()))
    clients = [Connection(address, path, int(answer_bytes)) for _ in range(int(connections))]
    load = Load(clients, messages, float(seconds))
    try:
        seen = load.paced(float(rate)) if float(rate) else load.closed(int(streams))
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    print(seen.to_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
