from __future__ import annotations

import subprocess
import sys

import pytest

from gnomon_server.cli.demo.stage import memory

CHILD = "held = bytearray(50 << 20); print('ready', flush=True); input()"
# The thread of an executor stays: what a thread has started that is gone belongs to another one.
PARENT = f"""
import subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
command = (sys.executable, "-c", {CHILD!r})
start = partial(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
starter = ThreadPoolExecutor(1)
child = starter.submit(start).result()
child.stdout.readline()
print(child.pid, flush=True)
input()
child.communicate("")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing says what processes share")
def test_the_memory_of_a_server_includes_what_any_of_its_threads_has_started() -> None:
    with subprocess.Popen(
        (sys.executable, "-c", PARENT), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        whole, part = memory(parent.pid), memory(child)
        parent.communicate("\n")
    assert part is not None
    assert whole is not None
    assert whole > part > 50 << 20
