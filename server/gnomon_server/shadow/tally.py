"""The tally: mergeable counts of what became of mirrored requests, one pair of primary and shadow each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.choice import Chosen
from gnomon_server.shadow.comparators import Flags, Floats
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.decisions import Decided, Flips
from gnomon_server.shadow.observations import Observations
from gnomon_server.shadow.outcome import COMPARED, DROPPED, NOT_COMPARABLE, SHADOW_ERROR, TIMEOUT, Ended, Uncompared
from gnomon_server.shadow.repeats import Repeats
from gnomon_server.shadow.repetition import Repeated
from gnomon_server.shadow.strata import Strata
from gnomon_server.wire.counts import HistogramCounts
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, DURATION_BOUNDS
from gnomon_server.wire.plans import Observing
from gnomon_server.wire.record import Record
from gnomon_server.wire.sketch import Sketch
from gnomon_server.wire.tallies import OutputTally, PairTally


class Tally:
    """Counts for one shadow, by the primary version that answered; cumulative."""

    def __init__(self, model: str, shadow: int, chosen: Mapping[str, Chosen], observing: Observing) -> None:
        self._model = model
        self._shadow = shadow
        self._chosen = chosen
        self._observing = observing
        self._basis = basis(chosen, observing)
        self._pairs: dict[int, _Pair] = {}

    def settle(self, ended: Ended) -> None:
        """Counts what became of a batch."""
        if isinstance(ended, Compared):
            primary = ended.batch.requests[0].record.primary
            self._pair(primary).add(ended)
        elif ended.guilty:
            for part in _alike(ended):
                self._pair(part.records[0].primary).failed(part)
        else:
            self.count(ended.records, ended.outcome)

    def repeated(self, repeated: Repeated) -> None:
        """Counts requests that were run again."""
        primary = repeated.own.batch.requests[0].record.primary
        self._pair(primary).repeats.add(repeated)

    def count(self, records: Iterable[Record], outcome: str) -> None:
        """Counts records of which nobody will know whether the shadow agrees."""
        for record in records:
            self._pair(record.primary).missed(outcome, record.sample)

    def end(self) -> None:
        """Takes that nothing more comes, for a reason that has nothing to do with what was observed."""
        for pair in self._pairs.values():
            pair.observations.end()

    def snapshot(self) -> tuple[PairTally, ...]:
        """Returns the counts so far, by primary version."""
        return tuple(pair.snapshot(self._model, primary, self._shadow) for primary, pair in sorted(self._pairs.items()))

    def _pair(self, primary: int) -> _Pair:
        if primary not in self._pairs:
            self._pairs[primary] = _Pair(self._chosen, Observations(self._observing, self._chosen, self._basis))
        return self._pairs[primary]


class _Pair:
    """Counts for one primary and the shadow."""

    def __init__(self, chosen: Mapping[str, Chosen], observations: Observations) -> None:
        self.outcomes: Counter[str] = Counter()
        self.observations = observations
        self.strata = Strata()
        self._agreement = 0.0
        self._disagreeing = 0
        self._chosen = chosen
        self._outputs: dict[str, _Output] = {}
        self._shadow_runs = _Histogram(DURATION_BOUNDS)
        self._primary_runs = _Histogram(DURATION_BOUNDS)
        self._shadow_times, self._primary_times = Sketch(), Sketch()
        self.repeats = Repeats()

    def add(self, compared: Compared) -> None:
        agreement = compared.agreement
        count = len(agreement)
        self.outcomes[COMPARED] += count
        self.strata.compared(compared.batch.requests[0].record.sample, agreement)
        self._agreement += float(agreement.sum())
        self._disagreeing += int(np.count_nonzero(agreement < 1))
        for name, divergences in compared.divergences.items():
            if name not in self._outputs:
                self._outputs[name] = _Output(self._chosen[name])
            output = self._outputs[name]
            output.add(divergences, compared.disagreements[name], compared.unfit[name])
            if name in compared.decisions:
                output.decided(*compared.decisions[name])
        share = np.array([(compared.end_ns - compared.start_ns) // count])
        self._shadow_runs.add(share / 1e9, count)
        self._shadow_times.add(share, count)
        runs = _runs(compared.batch)
        self._primary_runs.add(runs / 1e9)
        self._primary_times.add(runs)
        self.observations.compared(compared)

    def failed(self, ended: Uncompared) -> None:
        self.outcomes[ended.outcome] += len(ended.records)
        self.observations.failed(ended)
        for record in ended.records:
            self.strata.missed(record.sample)

    def missed(self, outcome: str, sample: float) -> None:
        self.outcomes[outcome] += 1
        self.strata.missed(sample)
        self.observations.missed(sample)

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
            observed=self.observations.snapshot(),
            shadow_times=self._shadow_times.snapshot(),
            primary_times=self._primary_times.snapshot(),
            repeats=self.repeats.snapshot(),
            strata=self.strata.snapshot(),
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
        self._net = 0.0
        self._flips = Flips(self._comparison.decision) if self._comparison.decision else None

    def add(self, divergences: Floats, disagreements: Flags, unfit: int) -> None:
        self._rows += len(divergences)
        self._disagreements += int(np.count_nonzero(disagreements))
        self._max = max(self._max, float(divergences.max(initial=0)))
        self._divergences.add(divergences)
        self._unfit += unfit
        self._net += float(np.maximum(divergences - self._comparison.floor, 0.0).sum())

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
            floor=self._comparison.floor,
            net_sum=self._net,
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


def _alike(ended: Uncompared) -> Iterator[Uncompared]:
    """Yields the parts of which all records have one primary and one share of mirrored requests."""
    keys = [(record.primary, record.sample) for record in ended.records]
    for key in dict.fromkeys(keys):
        keep = np.array([other == key for other in keys])
        inputs = ended.inputs.only(keep) if ended.inputs is not None else None
        yield replace(ended, records=list(compress(ended.records, keep)), inputs=inputs)


def basis(chosen: Mapping[str, Chosen], observing: Observing) -> str:
    """Returns a name for all that makes observations comparable: those under another one must not be added."""
    comparisons = [(name, one.comparison, one.classes) for name, one in sorted(chosen.items())]
    # Counts of another segment have another name, and those of all the traffic go on.
    observing = msgspec.structs.replace(observing, segments=())
    return hashlib.sha256(repr((comparisons, observing)).encode()).hexdigest()[:16]


def _runs(batch: Batch) -> NDArray[np.int64]:
    """Returns the nanoseconds that the primary ran for each request."""
    return np.array([r.record.run_end_ns - r.record.run_start_ns for r in batch.requests], np.int64)
