"""Two versions side by side, on rows of data and without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from gnomon_protos.tensors import Array
from gnomon_server.cli import dataset
from gnomon_server.cli.dataset import Dataset
from gnomon_server.models.servable import Servable
from gnomon_server.shadow import shrinking
from gnomon_server.shadow.batching import group, parse
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.trial import Shadow, Trial
from gnomon_server.wire.record import Record

# Nanoseconds: no run is late.
NEVER: Final = 1 << 62
# Rows of one run of both versions, and the bytes that these may take: an image has many features.
ROWS: Final = 256
BYTES: Final = 64 << 20


class Both:
    """Two versions side by side, on rows one by one."""

    def __init__(self, primary: Servable, shadow: Shadow) -> None:
        self.primary, self.shadow = primary, shadow
        self._fits = Fits(shadow.signature, shadow.coalescable)
        self._trial = Trial(shadow, choose(shadow.signature, shadow.comparisons), NEVER)

    def compared(self, rows: Dataset) -> list[tuple[Record, Compared] | None]:
        """Returns for each row what came of it; None where either has no answer to compare."""
        records, failed = dataset.answered(self.primary, rows)
        if failed:
            return [found for row in rows.singles() for found in self.compared(row)] if len(rows) > 1 else [None]
        known: dict[int, Compared] = {}
        requests = [request for record in records if (request := parse(record, self._fits)) is not None]
        for batch in group(requests, ROWS):
            ended = self._trial.of(batch)
            if ended is None:
                ended = [one for single in batch.singles() for one in self._trial.of(single) or ()]
            known |= {id(record): one for one in ended if isinstance(one, Compared) for record in one.batch.records}
        return [(record, known[id(record)]) if id(record) in known else None for record in records]

    def diverge(self, rows: Dataset) -> list[bool]:
        """Returns for each row whether the versions answer it differently, beyond the tolerance."""
        return [one is not None and _agreement(*one) < 1 for one in self.compared(rows)]

    def first(self, base: Mapping[str, Array], row: Mapping[str, Array]) -> shrinking.First:
        """Returns the search for the first set of features of `row` that makes `base` diverge."""
        bytes_ = max(1, sum(array.nbytes for array in base.values()))
        most = max(1, min(ROWS, BYTES // bytes_))

        def search(sets: Sequence[tuple[int, ...]]) -> int | None:
            for begin in range(0, len(sets), most):
                flags = self.diverge(Dataset(shrinking.mixed(base, row, sets[begin : begin + most]), None))
                if any(flags):
                    return begin + flags.index(True)
            return None

        return search


def _agreement(record: Record, compared: Compared) -> float:
    (index,) = [number for number, one in enumerate(compared.batch.records) if one is record]
    return float(compared.agreement[index])
