"""Sequences of which a request was lost on its way to the shadow, so that the rest is left out as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from gnomon_server.recent import Recent
from gnomon_server.shadow.comparators import Flags
from gnomon_server.wire.record import Record

# As many as a frontend remembers, and as long.
MOST: Final = 65_536
IDLE_SECONDS: Final = 60.0


class Lost:
    """Those that lost a request at one point of the way; records must pass it in their order."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lost: Recent[bytes, bool] = Recent(MOST, IDLE_SECONDS)

    def add(self, records: Iterable[Record]) -> None:
        """Takes records that were lost."""
        for record in records:
            if record.ends:
                self._lost.forget(record.sequence)
            elif record.sequence:
                self._lost.put(record.sequence, value=True, now=self._clock())

    def follows(self, record: Record) -> bool:
        """Whether an earlier request of the record's sequence was lost; the last of a sequence ends that."""
        if not record.sequence or not self._lost:
            return False
        if record.starts:
            self._lost.forget(record.sequence)
        lost = self._lost.get(record.sequence, self._clock()) is not None
        if record.ends:
            self._lost.forget(record.sequence)
        return lost


def followers(records: Sequence[Record], lost: Flags) -> Flags:
    """Returns the flags of records that are lost, with those of the same sequences that come later; all bool[B]."""
    sequences: set[bytes] = set()
    found = np.array(lost)
    for index in range(len(records)):
        sequence = records[index].sequence
        if not sequence:
            continue
        if records[index].starts:
            sequences.discard(sequence)
        if found[index]:
            sequences.add(sequence)
        found[index] = sequence in sequences
    return found
