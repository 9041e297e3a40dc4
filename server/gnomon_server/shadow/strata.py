"""Strata: what was found of a pair, by the share of the requests that was mirrored when they came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gnomon_server.shadow.comparators import Floats
from gnomon_server.wire.tallies import StratumTally


@dataclass
class _Counts:
    received: int = 0
    compared: int = 0
    agreement_sum: float = 0.0
    disagreeing: int = 0


class Strata:
    """Counts by share; cumulative."""

    def __init__(self) -> None:
        self._by_share: dict[float, _Counts] = {}

    def compared(self, sample: float, agreement: Floats) -> None:
        """Counts requests that were compared, each with its share of agreeing rows."""
        counts = self._of(sample)
        counts.received += len(agreement)
        counts.compared += len(agreement)
        counts.agreement_sum += float(agreement.sum())
        counts.disagreeing += int(np.count_nonzero(agreement < 1))

    def missed(self, sample: float) -> None:
        """Counts a request with another outcome."""
        self._of(sample).received += 1

    def snapshot(self) -> tuple[StratumTally, ...]:
        """Returns the counts so far, the largest share first."""
        return tuple(
            StratumTally(sample, counts.received, counts.compared, counts.agreement_sum, counts.disagreeing)
            for sample, counts in sorted(self._by_share.items(), reverse=True)
        )

    def _of(self, sample: float) -> _Counts:
        return self._by_share.setdefault(sample, _Counts())
