"""Faults of native code inside a shadow worker, for tests: Python imports this at the start of every process.

A thread in each shadow worker waits until a file in the folder GNOMON_TEST_SABOTAGE says what to do: `segfault`, `leak`
(16 MiB a time, for ever) or `spin` (eight threads that never rest, without the interpreter's lock).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

SIZE = 8 << 20


def segfault() -> None:
    ctypes.string_at(0)


def leak() -> NoReturn:
    kept: list[bytearray] = []
    while True:
        with suppress(MemoryError):
            kept.append(bytearray(b"x") * (16 << 20))
        time.sleep(0.02)


def spin() -> None:
    # Compares two equal blocks of memory: native code that holds no lock of Python's.
    blocks = ctypes.create_string_buffer(SIZE), ctypes.create_string_buffer(SIZE)
    for _ in range(8):
        threading.Thread(target=compare, args=blocks, daemon=True).start()


def compare(one: ctypes.Array[ctypes.c_char], other: ctypes.Array[ctypes.c_char]) -> NoReturn:
    memcmp = ctypes.CDLL(None).memcmp
    while True:
        memcmp(one, other, ctypes.c_size_t(SIZE))


def wait(folder: Path) -> None:
    while not (found := [act for act in (segfault, leak, spin) if (folder / act.__name__).exists()]):
        time.sleep(0.02)
    found[0]()


if "gnomon_server.shadow" in sys.orig_argv and "GNOMON_TEST_SABOTAGE" in os.environ:
    threading.Thread(target=wait, args=(Path(os.environ["GNOMON_TEST_SABOTAGE"]),), daemon=True).start()
