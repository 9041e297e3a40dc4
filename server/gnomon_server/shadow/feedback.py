"""Feedback: labels that come after the answers, joined to what both versions had decided."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_protos.tensors import Array
from gnomon_server.errors import InvalidRequest, quoted
from gnomon_server.settings import FeedbackSettings
from gnomon_server.shadow.cohorts import Block, Cohorts
from gnomon_server.shadow.comparators import Flags
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.digests import Seen
from gnomon_server.shadow.early import Early, Waiting
from gnomon_server.shadow.joined import (
    DUPLICATE,
    JOINED,
    LABELS_BYTES,
    LATE,
    REFUSED,
    UNKNOWN,
    WAITING,
    Batch,
    Pair,
    Request,
    decisions,
    text_bytes,
)
from gnomon_server.shadow.outcome import Ended, Uncompared
from gnomon_server.shadow.remembered import Remembered
from gnomon_server.shadow.truth import Truth
from gnomon_server.wire.labels import Label, Labelled, PairLabels
from gnomon_server.wire.plans import Observing

Counts = NDArray[np.intp]
# Reasons in one answer.
MOST_REASONS: Final = 3
# Bytes of an id that is remembered.
MOST_ID: Final = 1024
# Nanoseconds by which a client's clock may be ahead.
AHEAD_NS: Final = 60 * 10**9


@dataclass(frozen=True)
class Judging:
    """Which labels make observations, and what an observation is."""

    # Seconds after a request in which its label counts; 0: labels are shown, and none is an observation.
    horizon: float = 0.0
    observing: Observing = Observing()  # noqa: RUF009 - it is frozen


class Feedback:
    """Joins labels to the requests that are remembered; owned by the event loop of the worker.

    An id names the first request that has it, as long as that is remembered; the first label of a request counts. A
    label waits `wait` seconds for its request, and is then unknown or, where it `passes` labels on, for another server.
    Where `truth` is None labels are refused for a `reason`.
    """

    def __init__(
        self,
        truth: Truth | None,
        settings: FeedbackSettings,
        judging: Judging,
        wait: float,
        reason: str = "",
        clock: Callable[[], int] = time.time_ns,
        live: bool = True,
        passes: bool = False,
    ) -> None:
        self._truth = truth
        self._reason = reason if settings.keep else "no request is remembered, as the setting feedback.keep is 0"
        self._keep = settings.keep
        # Whether a request counts, at its worst and at its best, while it has no label.
        self._counted = settings.unlabelled == "worst"
        self._judging = judging
        self._horizon_ns = round(judging.horizon * 1e9)
        self._clock = clock
        # Whether labels come now; otherwise they came when they say, or in time.
        self._live = live
        self._basis = _basis(truth, settings, judging)
        self._seen = Seen() if judging.observing.dedupe and judging.horizon else None
        self._requests = Remembered(settings)
        self._early = Early(round(wait * 1e9))
        self._passes = passes
        self._strays: list[Label] = []
        self._pairs: dict[int, Pair] = {}
        # The primary version that is asked now: a label of which no request is known counts under it.
        self.primary = 0

    def settle(self, ended: Ended) -> None:
        """Takes what became of a batch."""
        if self._truth is None:
            return
        if isinstance(ended, Compared):
            self._compared(ended, self._truth)
        elif self._horizon_ns:
            self._missed(ended)

    def adopt(self, labels: Sequence[Label]) -> tuple[Label, ...]:
        """Joins labels that another server passed on; returns those of unknown requests, which are not counted."""
        self._requests.fit(self._clock())
        unknown = tuple(label for label in labels if label.id not in self._requests)
        self.take(0, [label for label in labels if label.id in self._requests])
        return unknown

    def take(self, number: int, labels: Sequence[Label]) -> Labelled:
        """Joins labels, or has them wait; returns what became of them."""
        self._requests.fit(self._clock())
        found: Counter[str] = Counter()
        reasons: list[str] = []
        for label in labels:
            try:
                found[self._take(label)] += 1
            except InvalidRequest as error:
                found[REFUSED] += 1
                self._of(label.id).counts[REFUSED] += 1
                if len(reasons) < MOST_REASONS:
                    reasons.append(f"id {quoted(label.id)}: {error}")
        outcomes = {name: found[name] for name in (JOINED, WAITING, LATE, DUPLICATE, REFUSED)}
        return Labelled(number=number, reasons=tuple(reasons), **outcomes)

    def end(self) -> None:
        """Takes that no request will come any more: labels wait for none."""
        if self._passes:
            self._unknown(self._early.clear())

    def snapshot(self, model: str, shadow: int) -> tuple[PairLabels, ...]:
        """Returns the counts so far, by primary version."""
        self._unknown(self._early.expired(self._clock()))
        self._requests.fit(self._clock())
        if self._truth is None:
            return ()
        if self._early or self._strays:
            self._pair(self.primary)
        found = []
        for primary, pair in sorted(self._pairs.items()):
            waiting, strays = (len(self._early), self._strays) if primary == self.primary else (0, [])
            if primary:
                tally = pair.snapshot(self._truth, self._basis, waiting)
                found.append(PairLabels(model, primary, shadow, tally, tuple(strays)))
        if self.primary:
            self._strays = []
        return tuple(found)

    def _compared(self, compared: Compared, truth: Truth) -> None:
        requests, rows = compared.batch.requests, compared.batch.rows
        first = requests[0].record
        self.primary = self.primary or first.primary
        if not self._horizon_ns and not any(request.id for request in requests):
            return
        pair = self._pair(first.primary)
        pair.requests += len(requests)
        decided, kept = decisions(compared, truth), self._fresh(compared, int(rows.sum()))
        ends = np.cumsum(rows).tolist()
        starts = [0, *ends[:-1]]
        batch = Batch(decided, kept) if decided is not None else None
        spreads = self._spreads(batch, kept, rows, truth) if self._horizon_ns else [None] * len(requests)
        for mirrored, start, end, spread in zip(requests, starts, ends, spreads, strict=True):
            end_ns = mirrored.record.end_ns
            block = self._observe(pair, first.sample, end_ns, spread) if spread is not None else None
            if mirrored.id and batch is not None and start < end:
                self._remember(mirrored.id, Request(pair, end_ns, batch, (start, end), block, spread or 0.0), truth)

    def _spreads(self, batch: Batch | None, kept: Flags, rows: Counts, truth: Truth) -> list[float | None]:
        """Returns by how much the losses of each request can differ; None where no row of it is observed."""
        spread = np.ones(len(kept)) if batch is None else truth.spread(*batch.decisions)
        owners = np.repeat(np.arange(len(rows)), rows)
        number = np.bincount(owners, kept, len(rows))
        means = np.bincount(owners, spread * kept, len(rows)) / np.maximum(number, 1)
        return [mean if counted else None for mean, counted in zip(means.tolist(), number.tolist(), strict=True)]

    def _observe(self, pair: Pair, sample: float, end_ns: int, spread: float) -> Block:
        block = pair.cohorts.add(sample, end_ns)
        if self._counted:
            block.counted += 1
            block.change(spread, -spread)
        return block

    def _missed(self, ended: Uncompared) -> None:
        """Takes requests of which the shadow decided nothing: by its own fault it is wrong, else nobody knows."""
        best, known = 0.0 if ended.guilty else -1.0, ended.inputs
        counted = [True] * len(ended.records)
        if ended.guilty and known is not None and self._seen is not None:
            owners = np.repeat(np.arange(len(known.rows)), known.rows)
            counted = (np.bincount(owners, self._seen.first(known.digests), len(known.rows)) > 0).tolist()
        for record in compress(ended.records, counted):
            pair = self._pair(record.primary)
            pair.requests += 1
            block = pair.cohorts.add(record.sample, record.end_ns)
            block.counted += 1
            block.change(1.0, best)

    def _remember(self, name: bytes, request: Request, truth: Truth) -> None:
        identity = name.decode(errors="replace")
        if not self._keep or len(name) > MOST_ID or identity in self._requests:
            request.forget()
            return
        self._requests.add(identity, request)
        early = self._early.pop(identity)
        if early is not None:
            try:
                self._join(request, early.label, early.labels, truth)
            except InvalidRequest:
                request.pair.counts[REFUSED] += 1
        self._requests.fit(self._clock())

    def _take(self, label: Label) -> str:
        if self._truth is None or not self._keep:
            raise InvalidRequest(self._reason)
        if not label.id or len(label.id) > MOST_ID:
            raise InvalidRequest(f"expected the id of a request, of at most {MOST_ID} characters")
        if label.time_ns > self._clock() + AHEAD_NS:
            raise InvalidRequest("time: expected when the label became known, received a time to come")
        labels = self._truth.read(label.labels)
        request = self._requests.get(label.id)
        if request is not None:
            return self._join(request, label, labels, self._truth)
        return self._wait(label, labels)

    def _join(self, request: Request, label: Label, labels: Array, truth: Truth) -> str:
        """Returns what becomes of a label that fits the output; raises InvalidRequest if a row has none."""
        pair, came = request.pair, self._clock() if self._live else label.time_ns or request.end_ns
        if len(labels) != request.rows:
            raise InvalidRequest(f"expected {request.rows} labels, one a row, received {len(labels)}")
        if request.labels is not None:
            pair.counts[DUPLICATE] += 1
            pair.conflicting += bool((request.labels != labels).any())
            return DUPLICATE
        if self._horizon_ns and came >= request.end_ns + self._horizon_ns:
            pair.counts[LATE] += 1
            return LATE
        delay = max(0, (label.time_ns or came) - request.end_ns) / 1e9
        pair.join(request, labels, truth, delay, self._counted)
        self._requests.grow(request, LABELS_BYTES + text_bytes(labels))
        return JOINED

    def _wait(self, label: Label, labels: Array) -> str:
        before = self._early.get(label.id)
        if before is not None:
            pair = self._pair(self.primary)
            pair.counts[DUPLICATE] += 1
            pair.conflicting += not np.array_equal(before.labels, labels)
            return DUPLICATE
        self._unknown(self._early.add(label, labels, self._clock()))
        return WAITING

    def _unknown(self, given_up: Sequence[Waiting]) -> None:
        """Counts labels whose requests did not come in time, or passes them on."""
        for early in given_up:
            pair = self._pair(self.primary)
            if self._passes:
                pair.forwarded += 1
                time_ns = early.label.time_ns or early.since_ns
                self._strays.append(Label(early.label.id, early.label.labels, time_ns))
            else:
                pair.counts[UNKNOWN] += 1

    def _fresh(self, compared: Compared, rows: int) -> Flags:
        """Returns which rows may be observed: where the policy says so, those that were not met before."""
        if self._seen is None or compared.inputs is None:
            return np.ones(rows, np.bool_)
        return self._seen.first(compared.inputs.digests)

    def _of(self, identity: str) -> Pair:
        request = self._requests.get(identity)
        return request.pair if request is not None else self._pair(self.primary)

    def _pair(self, primary: int) -> Pair:
        if primary not in self._pairs:
            self._pairs[primary] = Pair(Cohorts(self._judging.observing.block, self._judging.horizon))
        return self._pairs[primary]


def _basis(truth: Truth | None, settings: FeedbackSettings, judging: Judging) -> str:
    """Returns a name for all that makes losses comparable: those under another one must not be added."""
    if truth is None:
        return ""
    of = (truth.output, truth.loss, truth.scale, settings.unlabelled, judging.horizon)
    blocks = (judging.observing.block, judging.observing.dedupe)
    return sha256(repr((of, blocks)).encode()).hexdigest()[:16]
