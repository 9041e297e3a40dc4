"""The pressure on the machine's processors, as Linux tells it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

FILE: Final = Path("/proc/pressure/cpu")
_TOTAL: Final = re.compile(r"^some .*total=(\d+)$", re.MULTILINE)


class Pressure:
    """The share of the time since the last look in which something waited for a processor (PSI, "some")."""

    def __init__(self, file: Path = FILE, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        # When it was looked at last, and the microseconds of waiting until then.
        self._last: tuple[float, int] | None = None

    def read(self) -> float | None:
        """Returns the share, in [0, 1]; None at the first look, and where the system does not tell."""
        try:
            found = _TOTAL.search(self._file.read_text())
        except OSError:
            return None
        if found is None:
            return None
        now, total = self._clock(), int(found[1])
        last, self._last = self._last, (now, total)
        if last is None or now <= last[0]:
            return None
        return min(1.0, (total - last[1]) / 1e6 / (now - last[0]))
