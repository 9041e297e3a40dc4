"""Observations: what mirrored requests say about a shadow, as binned counts on which a verdict may rest.

An observation is the mean of a block of consecutive requests, each of them the mean over its rows that were not met
before: traffic comes in bursts and repeats itself, and neither makes evidence. What is not known counts twice, at its
worst for the shadow and at its best.

Requests must be settled in the order in which they were selected, as far as it depends on how they turned out: where
agreements were settled before disagreements, every shadow would look good for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_server.shadow.comparators import Flags, Floats
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.digests import Inputs, Seen
from gnomon_server.shadow.outcome import Uncompared
from gnomon_server.statistics.knots import GEO32, SYM64, Knots
from gnomon_server.wire.metrics import DISAGREEMENT, FAILURE, LATENCY, added, of_output, of_segment
from gnomon_server.wire.plans import Observing
from gnomon_server.wire.record import Record
from gnomon_server.wire.tallies import MetricCounts, Observed, Serial, ShareCounts

Counts = NDArray[np.intp]
# Values that wait to be counted; between two reports there are fewer, unless the shadow is very fast.
WAITING: Final = 1 << 14


class Observations:
    """What one shadow and one primary were observed to do, cumulative.

    `outputs` are all that the shadow has, and `basis` names what makes counts comparable.
    """

    def __init__(self, observing: Observing, outputs: Iterable[str], basis: str) -> None:
        self._observing = observing
        self._basis = basis
        self._seen = Seen() if observing.dedupe else None
        self._outputs = tuple(outputs)
        # By the share of requests that was mirrored: no block has requests of two. Counts are added without weights,
        # which is right about the average of the requests that were selected; those of the disagreement are told apart
        # as well, for the average of all the traffic.
        self._strata: dict[float, _Stratum] = {}
        self._requests = 0
        self._repeated = 0
        self._rows = 0
        self._repeated_rows = 0

    def compared(self, found: Compared) -> None:
        """Takes a batch that was compared."""
        rows = found.batch.rows
        fresh = self._fresh(found.inputs, rows)
        differ: Floats = np.logical_or.reduce(list(found.disagreements.values())).astype(np.float64)
        shares = _means(differ, rows, fresh)
        records = found.batch.records
        stratum = self._stratum(records[0].sample)
        stratum.add(DISAGREEMENT, shares)
        for name, values in found.divergences.items():
            stratum.add(of_output(name), _means(values, rows, fresh))
        for segment in self._observing.segments:
            # A batch that was compared was read.
            held = fresh & found.inputs.members[segment] if found.inputs is not None else fresh
            values = _means(differ, rows, held)
            stratum.add(of_segment(segment), values)
        stratum.add(FAILURE, np.zeros(len(shares)))
        if self._observing.latency:
            slow = (found.end_ns - found.start_ns) / len(rows) > self._observing.latency * 1e9
            stratum.add(LATENCY, (1 + slow - self._slow(records, _any(rows, fresh))) / 2)
        self._count(len(rows), len(shares))

    def failed(self, ended: Uncompared) -> None:
        """Takes requests of one share to which the shadow had no answer, by its own fault."""
        rows = ended.inputs.rows if ended.inputs is not None else np.ones(len(ended.records), np.intp)
        fresh = self._fresh(ended.inputs, rows)
        first = _any(rows, fresh)
        ones = np.ones(int(np.count_nonzero(first)))
        stratum = self._stratum(ended.records[0].sample)
        apart = {LATENCY, *map(of_segment, self._observing.segments)}
        for name in stratum.metrics.keys() - apart:
            stratum.add(name, ones)
        for segment in self._observing.segments:
            held = ended.inputs.members.get(segment) if ended.inputs is not None else None
            if held is not None:
                stratum.add(of_segment(segment), np.ones(int(np.count_nonzero(_any(rows, fresh & held)))))
            else:
                # Whether it lies there is not known.
                stratum.metrics[of_segment(segment)].add(ones, np.zeros(len(ones)))
        if self._observing.latency:
            stratum.add(LATENCY, (2 - self._slow(ended.records, first)) / 2)
        self._count(len(rows), len(ones))

    def missed(self, sample: float) -> None:
        """Takes a request of a share of which nobody will know whether the shadow agrees."""
        self._stratum(sample).missed += 1
        self._requests += 1

    def end(self) -> None:
        """Leaves out the blocks that are not finished, where the end came whatever was observed."""
        for stratum in self._strata.values():
            stratum.settle()
            for metric in stratum.metrics.values():
                metric.end()

    def snapshot(self) -> Observed:
        """Returns the counts so far; a block that is not finished counts for nothing yet."""
        strata = list(self._strata.values())
        for stratum in strata:
            stratum.settle()
        disagreements = [stratum.metrics[DISAGREEMENT] for stratum in strata]
        names = strata[0].metrics if strata else ()
        return Observed(
            basis=self._basis,
            block=self._observing.block,
            requests=self._requests - sum(metric.unfinished for metric in disagreements),
            repeated=self._repeated,
            rows=self._rows,
            repeated_rows=self._repeated_rows,
            serial=_serial(disagreements),
            metrics=tuple(_counts(name, [stratum.metrics[name] for stratum in strata]) for name in names),
            shares=tuple(self._share(sample) for sample in sorted(self._strata, reverse=True)),
        )

    def _share(self, sample: float) -> ShareCounts:
        metric = self._strata[sample].metrics[DISAGREEMENT]
        return ShareCounts(sample, tuple(metric.up.tolist()), tuple(metric.lo.tolist()))

    def _fresh(self, inputs: Inputs | None, rows: Counts) -> Flags:
        """Returns which of the batch's rows count."""
        total = int(rows.sum())
        if inputs is None or self._seen is None:
            return np.ones(total, np.bool_)
        fresh = self._seen.first(inputs.digests)
        self._rows += total
        self._repeated_rows += total - int(np.count_nonzero(fresh))
        return fresh

    def _count(self, requests: int, observed: int) -> None:
        self._requests += requests
        self._repeated += requests - observed

    def _stratum(self, sample: float) -> _Stratum:
        if sample not in self._strata:
            self._strata[sample] = _Stratum(self._observing, self._outputs)
        return self._strata[sample]

    def _slow(self, records: Sequence[Record], kept: Flags) -> Floats:
        """Returns, for each request that is kept, 1 if the primary's run took longer than the limit, else 0."""
        limit = self._observing.latency * 1e9
        slow = [record.run_end_ns - record.run_start_ns > limit for record in compress(records, kept)]
        return np.array(slow, np.float64)


class _Stratum:
    """The metrics of requests that were selected with the same share."""

    def __init__(self, observing: Observing, outputs: Iterable[str]) -> None:
        names = (DISAGREEMENT, FAILURE, *map(of_output, outputs), *map(of_segment, observing.segments))
        # All of them from the start: a request without an answer counts in every one.
        self.metrics = {name: _Metric(GEO32, observing.block) for name in names}
        if observing.latency:
            self.metrics[LATENCY] = _Metric(SYM64, observing.block)
        # Not yet among the metrics' values.
        self.missed = 0

    def add(self, name: str, values: Floats) -> None:
        self.metrics[name].add(values, values)

    def settle(self) -> None:
        """Cuts what has come into blocks. What was missed may come in any order, since it counts at its worst."""
        worst, best = np.ones(self.missed), np.zeros(self.missed)
        self.missed = 0
        for metric in self.metrics.values():
            if len(worst):
                metric.add(worst, best)
            metric.cut()


class _Metric:
    """One metric's values: gathered, cut into blocks, and binned when they are asked for."""

    def __init__(self, knots: Knots, block: int) -> None:
        self._knots = knots
        self._block = block
        self._waiting: list[tuple[Floats, Floats]] = []
        self._length = 0
        self.up, self.lo = knots.none(), knots.none()
        self.serial = Serial()
        self._last: float | None = None

    @property
    def unfinished(self) -> int:
        """Values that no block has taken in yet."""
        return self._length

    def add(self, up: Floats, lo: Floats) -> None:
        """Takes a value a request, at its worst and at its best."""
        self._waiting.append((up, lo))
        self._length += len(up)
        if self._length >= WAITING + self._block:
            self.cut()

    def end(self) -> None:
        """Forgets the block that is not full."""
        self._waiting, self._length = [], 0

    def cut(self) -> None:
        """Bins the blocks that are full."""
        blocks = self._length // self._block
        if not blocks:
            return
        size = blocks * self._block
        up, lo = (np.concatenate(side) for side in zip(*self._waiting, strict=True))
        self._waiting, self._length = [(up[size:], lo[size:])], len(up) - size
        means = up[:size].reshape(blocks, -1).mean(axis=1)
        counts = self._knots.counts(means)
        self.up += counts
        same = np.array_equal(up[:size], lo[:size])
        self.lo += counts if same else self._knots.counts(lo[:size].reshape(blocks, -1).mean(axis=1))
        self._follow(means)

    def _follow(self, means: Floats) -> None:
        """Takes the sums from which the correlation of neighbouring blocks is found."""
        chain = means if self._last is None else np.concatenate([[self._last], means])
        before = self.serial
        self.serial = Serial(
            blocks=before.blocks + len(means),
            total=before.total + float(means.sum()),
            squares=before.squares + float(means @ means),
            pairs=before.pairs + len(chain) - 1,
            products=before.products + float(chain[1:] @ chain[:-1]),
        )
        self._last = float(means[-1])


def _counts(name: str, metrics: Sequence[_Metric]) -> MetricCounts:
    up, lo = sum(metric.up for metric in metrics), sum(metric.lo for metric in metrics)
    return MetricCounts(name, tuple(np.asarray(up).tolist()), tuple(np.asarray(lo).tolist()))


def _serial(metrics: Iterable[_Metric]) -> Serial:
    return reduce(added, (metric.serial for metric in metrics), Serial())


def _any(rows: Counts, fresh: Flags) -> Flags:
    """Returns which requests have a row that counts."""
    if _single(rows):
        return fresh
    found: Flags = _sums(fresh, rows) > 0
    return found


def _means(values: Floats, rows: Counts, fresh: Flags) -> Floats:
    """Returns the mean over the rows that count, of each request that has one."""
    if _single(rows):
        return values[fresh]
    counted = _sums(fresh, rows)
    kept = counted > 0
    means: Floats = _sums(values * fresh, rows)[kept] / counted[kept]
    return means


def _single(rows: Counts) -> bool:
    return not (rows != 1).any()


def _sums(values: Floats | Flags, rows: Counts) -> Floats:
    """Returns the sum over the rows of each request."""
    return np.bincount(np.repeat(np.arange(len(rows)), rows), values, len(rows)).astype(np.float64)
