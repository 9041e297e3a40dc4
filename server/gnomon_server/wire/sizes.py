"""Runs by their number of rows, cheap to count into and mergeable by addition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gnomon_server.wire.counts import SizeCount

# Numbers of rows that are kept apart; clients choose them, so there must be a bound.
MOST: Final = 128


class Size:
    """The runs of one number of rows, as they are being counted; the fields are those of SizeCount."""

    __slots__ = ("inputs", "outputs", "rows", "running", "runs")

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.runs = 0
        self.inputs = self.running = self.outputs = 0.0


class Sizes:
    """The runs of a version; numbers of rows that come after the first MOST are in no count of these."""

    __slots__ = ("_other", "_sizes")

    def __init__(self) -> None:
        self._sizes: dict[int, Size] = {}
        self._other = Size(0)

    def of(self, rows: int) -> Size:
        """Returns what runs of so many rows are counted into."""
        size = self._sizes.get(rows)
        if size is None:
            if len(self._sizes) >= MOST:
                return self._other
            size = self._sizes[rows] = Size(rows)
        return size

    def snapshot(self) -> tuple[SizeCount, ...]:
        """Returns the counts so far, by rising rows."""
        return merge(SizeCount(s.rows, s.runs, s.inputs, s.running, s.outputs) for s in self._sizes.values())


def merge(parts: Iterable[SizeCount]) -> tuple[SizeCount, ...]:
    """Adds counts of the same rows; returns them by rising rows."""
    sums: dict[int, SizeCount] = {}
    for part in parts:
        known = sums.get(part.rows, SizeCount(part.rows, 0, 0.0, 0.0, 0.0))
        sums[part.rows] = SizeCount(
            part.rows,
            known.runs + part.runs,
            known.inputs + part.inputs,
            known.running + part.running,
            known.outputs + part.outputs,
        )
    return tuple(sums[rows] for rows in sorted(sums))
