"""The tally: mergeable counts of what became of mirrored requests, one pair of primary and shadow each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.choice import Chosen
from gnomon_server.shadow.comparators import Flags, Floats
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.decisions import Decided, Flips
from gnomon_server.shadow.outcome import COMPARED, DROPPED, NOT_COMPARABLE, SHADOW_ERROR, TIMEOUT, Ended
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, DURATION_BOUNDS
from gnomon_server.wire.messages import HistogramCounts, OutputTally, PairTally
from gnomon_server.wire.record import Record


class Tally:
    """Counts for one shadow, by the primary version that answered; cumulative."""

    def __init__(self, model: str, shadow: int, chosen: Mapping[str, Chosen]) -> None:
        self._model = model
        self._shadow = shadow
        self._chosen = chosen
        self._pairs: dict[int, _Pair] = {}

    def settle(self, ended: Ended) -> None:
        """Counts what became of a batch."""
        if isinstance(ended, Compared):
            primary = ended.batch.requests[0].record.primary
            self._pair(primary).add(ended)
        else:
            self.count(ended.records, ended.outcome)

    def count(self, records: Iterable[Record], outcome: str) -> None:
        """Counts records that were not compared."""
        for record in records:
            self._pair(record.primary).outcomes[outcome] += 1

    def snapshot(self) -> tuple[PairTally, ...]:
        """Returns the counts so far, by primary version."""
        return tuple(pair.snapshot(self._model, primary, self._shadow) for primary, pair in sorted(self._pairs.items()))

    def _pair(self, primary: int) -> _Pair:
        if primary not in self._pairs:
            self._pairs[primary] = _Pair(self._chosen)
        return self._pairs[primary]


class _Pair:
    """Counts for one primary and the shadow."""

    def __init__(self, chosen: Mapping[str, Chosen]) -> None:
        self.outcomes: Counter[str] = Counter()
        self._agreement = 0.0
        self._disagreeing = 0
        self._chosen = chosen
        self._outputs: dict[str, _Output] = {}
        self._shadow_runs = _Histogram(DURATION_BOUNDS)
        self._primary_runs = _Histogram(DURATION_BOUNDS)

    def add(self, compared: Compared) -> None:
        agreement = compared.agreement
        count = len(agreement)
        self.outcomes[COMPARED] += count
        self._agreement += float(agreement.sum())
        self._disagreeing += int(np.count_nonzero(agreement < 1))
        for name, divergences in compared.divergences.items():
            if name not in self._outputs:
                self._outputs[name] = _Output(self._chosen[name])
            output = self._outputs[name]
            output.add(divergences, compared.disagreements[name], compared.unfit[name])
            if name in compared.decisions:
                output.decided(*compared.decisions[name])
        share = (compared.end_ns - compared.start_ns) / 1e9 / count
        self._shadow_runs.add(np.array([share]), count)
        self._primary_runs.add(_runs(compared.batch))

    def snapshot(self, model: str, primary: int, shadow: int) -> PairTally:
        return PairTally(
            model=model,
            primary=primary,
            shadow=shadow,
            compared=self.outcomes[COMPARED],
            shadow_error=self.outcomes[SHADOW_ERROR],
            timeout=self.outcomes[TIMEOUT],
            dropped=self.outcomes[DROPPED],
            not_comparable=self.outcomes[NOT_COMPARABLE],
            agreement_sum=self._agreement,
            disagreeing=self._disagreeing,
            outputs=tuple(output.snapshot() for output in self._outputs.values()),
            shadow_runs=self._shadow_runs.snapshot(),
            primary_runs=self._primary_runs.snapshot(),
        )


class _Output:
    """Counts of one output's rows."""

    def __init__(self, chosen: Chosen) -> None:
        self._comparison = chosen.comparison
        self._rows = 0
        self._disagreements = 0
        self._max = 0.0
        self._divergences = _Histogram(DIVERGENCE_BOUNDS)
        self._unfit = 0
        self._flips = Flips(self._comparison.decision) if self._comparison.decision else None

    def add(self, divergences: Floats, disagreements: Flags, unfit: int) -> None:
        self._rows += len(divergences)
        self._disagreements += int(np.count_nonzero(disagreements))
        self._max = max(self._max, float(divergences.max(initial=0)))
        self._divergences.add(divergences)
        self._unfit += unfit

    def decided(self, primary: Decided, shadow: Decided) -> None:
        if self._flips is not None:
            self._flips.add(primary, shadow)

    def snapshot(self) -> OutputTally:
        counts = self._divergences.snapshot()
        return OutputTally(
            output=self._comparison.output,
            comparator=self._comparison.comparator,
            tolerance=self._comparison.tolerance,
            rows=self._rows,
            disagreements=self._disagreements,
            divergence_sum=counts.total,
            divergence_max=self._max,
            histogram=counts,
            flips=self._flips.snapshot() if self._flips else (),
            unfit=self._unfit,
        )


class _Histogram:
    """As wire.histogram.Histogram, counting a whole array at once."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts: NDArray[Any] = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0

    def add(self, values: Floats, times: int = 1) -> None:
        buckets = self._bounds.searchsorted(values, side="left")
        self._counts += np.bincount(buckets, minlength=len(self._counts)) * times
        self._total += float(values.sum()) * times

    def snapshot(self) -> HistogramCounts:
        return HistogramCounts(tuple(self._counts.tolist()), self._total)


def _runs(batch: Batch) -> Floats:
    """Returns the seconds that the primary ran for each request."""
    nanoseconds = [r.record.run_end_ns - r.record.run_start_ns for r in batch.requests]
    return np.array(nanoseconds) / 1e9
