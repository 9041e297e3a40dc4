"""An OpenTelemetry receiver that takes what gnomon exports and drops it: rotel, a program in Rust."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import machine
import psutil
from machine import Places

PATIENCE: Final = 30.0


@contextmanager
def running(places: Places) -> Iterator[str]:
    """Runs it on the generator's core until the end of the block; yields what OTEL_EXPORTER_OTLP_ENDPOINT must be."""
    found = find_spec("rotel")
    if found is None or found.origin is None:
        raise RuntimeError("expected the package rotel: run `make bench`")
    ports = machine.free_ports(2)
    endpoints = ("--otlp-grpc-endpoint", f"127.0.0.1:{ports[0]}", "--otlp-http-endpoint", f"127.0.0.1:{ports[1]}")
    program = str(Path(found.origin).parent / "rotel-agent")
    command = (program, "start", *endpoints, "--exporter", "blackhole")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(ports[0])
        machine.pin(psutil.Process(process.pid), places.generator)
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        process.terminate()
        process.wait()


def _await(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError("the OpenTelemetry receiver did not start") from None
            time.sleep(0.05)
        else:
            return
