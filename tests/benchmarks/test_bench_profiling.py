"""What perf prints is read as shares of parts."""

from __future__ import annotations

import pytest
from profiling import parts

PRINTED = """
# Overhead  Shared Object                  Symbol
# ........  .............................  ..............................
#
    22.32%  libpython3.11.so.1.0           [.] _PyEval_EvalFrameDefault
     6.29%  libpython3.11.so.1.0           [.] gc_collect_main
    30.72%  _core.cpython-311-x86_64.so    [.] nghttp2_hd_huff_decode
     1.29%  [kernel.kallsyms]              [k] _raw_spin_unlock_irqrestore
     0.43%  libstdc++.so.6.0.30            [.] operator new(unsigned long)
"""


def test_functions_are_gathered_by_part_largest_first() -> None:
    found = parts(PRINTED)
    assert list(found) == ["HTTP/2 (ngh2)", "Python", "kernel: sockets, scheduling", "libc: memory"]
    assert sum(found["Python"].values()) == pytest.approx(28.61)
    assert found["libc: memory"] == {"operator new(unsigned long)": 0.43}
