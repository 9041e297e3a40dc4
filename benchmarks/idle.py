"""Idle connections: `python benchmarks/idle.py HOST:PORT PATH COUNT BYTES FILE` holds them until its stdin ends.

Each has had one call, the first of FILE, answered in BYTES. It says "held" once all are there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from http2 import Connection
from streams import split


def main() -> None:
    """Runs the command line."""
    address, path, count, answer_bytes, file = sys.argv[1:]
    message = split(Path(file).read_bytes())[0]
    held = []
    for _ in range(int(count)):
        connection = Connection(address, path, int(answer_bytes))
        connection.begin(message, 0.0)
        while connection.in_flight:
            connection.flush()
            connection.receive()
        connection.flush()
        held.append(connection)
    print("held", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
