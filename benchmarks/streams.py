"""A lean gRPC load client over ngh2: `python benchmarks/streams.py HOST:PORT SECONDS CONNECTIONS STREAMS BYTES FILE`.

It keeps STREAMS calls in flight on each connection. FILE holds the requests, each in its gRPC frame; every answer must
be OK and of BYTES. The last line it prints is the number of answers and the seconds they took.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

import ngh2

PREFIX: Final = 5
STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 1 << 24


class Wrong(Exception):
    """An answer that is not what it must be."""


class Connection:
    """One connection with a fixed number of calls in flight."""

    def __init__(self, address: str, frames: Iterator[bytes], answer_bytes: int) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.in_flight = 0
        self._frames = frames
        self._frame_bytes = answer_bytes + PREFIX
        self._received: dict[int, int] = {}
        self._headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
            (b":authority", address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._http2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW})
        self._http2.set_local_window_size(CONNECTION_WINDOW)

    def call(self, count: int) -> None:
        """Begins calls."""
        for _ in range(count):
            stream = self._http2.send_request(self._headers)
            self._http2.send_data(stream, next(self._frames), end_stream=True)
        self.in_flight += count
        self.socket.sendall(self._http2.data_to_send())

    def receive(self) -> int:
        """Reads once; returns how many calls ended well, raises Wrong if one did not."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise Wrong("the server closed the connection")
        self._http2.receive_data(data)
        ended = 0
        for event in self._http2.events():
            if isinstance(event, ngh2.DataReceived):
                self._received[event.stream_id] = self._received.get(event.stream_id, 0) + len(event.data)
            elif isinstance(event, ngh2.TrailersReceived):
                self._check(self._received.pop(event.stream_id, 0), event.headers)
                ended += 1
            elif isinstance(event, ngh2.StreamReset | ngh2.GoAwayReceived):
                raise Wrong(f"the server ended calls: {event!r}")
            elif isinstance(event, ngh2.ResponseReceived) and event.end_stream:
                raise Wrong(f"an error in place of an answer: {event.headers}")
        self.in_flight -= ended
        return ended

    def flush(self) -> None:
        """Sends what HTTP/2 itself has to say."""
        if data := self._http2.data_to_send():
            self.socket.sendall(data)

    def _check(self, size: int, trailers: tuple[ngh2.Header, ...]) -> None:
        if (b"grpc-status", b"0") not in trailers:
            raise Wrong(f"expected grpc-status 0, received {trailers}")
        if size != self._frame_bytes:
            raise Wrong(f"expected an answer of {self._frame_bytes} bytes, received {size}")


def run(connections: list[Connection], streams: int, seconds: float) -> tuple[int, float]:
    """Keeps the calls coming for some seconds, then waits for the last; returns the answers and the time."""
    poll = select.poll()
    by_descriptor = {connection.socket.fileno(): connection for connection in connections}
    start, answers = time.perf_counter(), 0
    for descriptor, connection in by_descriptor.items():
        poll.register(descriptor, select.POLLIN)
        connection.call(streams)
    while any(connection.in_flight for connection in connections):
        for descriptor, _ in poll.poll():
            connection = by_descriptor[descriptor]
            ended = connection.receive()
            answers += ended
            if ended and time.perf_counter() - start < seconds:
                connection.call(ended)
            else:
                connection.flush()
    return answers, time.perf_counter() - start


def split(data: bytes) -> list[bytes]:
    """Returns the gRPC frames of a file."""
    frames = []
    while data:
        size = PREFIX + int.from_bytes(data[1:PREFIX])
        frames.append(data[:size])
        data = data[size:]
    return frames


def main() -> int:
    """Runs the command line."""
    address, seconds, connections, streams, answer_bytes, file = sys.argv[1:]
    frames = cycle(split(Path(file).read_bytes()))
    clients = [Connection(address, frames, int(answer_bytes)) for _ in range(int(connections))]
    try:
        answers, elapsed = run(clients, int(streams), float(seconds))
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    print(answers, elapsed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
