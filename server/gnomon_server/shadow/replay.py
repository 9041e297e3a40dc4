"""The replay: recorded requests tried again, on the version that was recorded or on another one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Final

from gnomon_protos.tensors import Array
from gnomon_server.shadow import recording
from gnomon_server.shadow.batching import group, parse, unread
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.feedback import Feedback
from gnomon_server.shadow.outcome import DROPPED, NOT_COMPARABLE, TIMEOUT, Ended, Uncompared
from gnomon_server.shadow.recording import Head, Missing, Run
from gnomon_server.shadow.tally import Tally
from gnomon_server.shadow.trial import Shadow, Trial
from gnomon_server.wire.plans import Observing
from gnomon_server.wire.record import Record
from gnomon_server.wire.tallies import PairTally

# What became of a request because of the time and the load of then, which do not come again.
OF_THEN: Final = frozenset({TIMEOUT, DROPPED})
# Nanoseconds: later than any clock.
NEVER: Final = 1 << 62


class Replay:
    """Tries a shadow on recorded runs, one after the other; blocks, and keeps the tally only.

    The version that was recorded is tried as it was then: the same batches, the times of then, and what time alone had
    decided stays as it was. Each run must then find exactly what was found. Any other version is tried on every
    request, without a deadline.
    """

    def __init__(
        self,
        shadow: Shadow,
        batch_rows: int,
        observing: Observing = Observing(),  # noqa: B008 - it is frozen
        feedback: Feedback | None = None,
    ) -> None:
        self._shadow = shadow
        self._batch_rows = batch_rows
        self._chosen = choose(shadow.signature, shadow.comparisons)
        self._fits = Fits(shadow.signature, shadow.coalescable)
        self._segments = observing.segments
        self._tally = Tally(shadow.model, shadow.version, self._chosen, observing)
        # What labels are joined to; None where there are none.
        self.feedback = feedback
        # Requests by primary version, and when the first was answered, in nanoseconds since the epoch.
        self.received: Counter[int] = Counter()
        self.first_ns = NEVER
        # Of those that were never recorded, by primary version.
        self.dropped: Counter[int] = Counter()
        self.primary_errors: Counter[int] = Counter()
        # Runs; of these: of the recorded version; of these: those that found something else than was recorded.
        self.runs = 0
        self.comparable = 0
        self.differing = 0

    def is_of(self, head: Head) -> bool:
        """Whether the shadow is the version that was recorded."""
        return bool(head.digest) and (self._shadow.digest, self._shadow.version) == (head.digest, head.shadow)

    def take(self, head: Head, run: Run) -> None:
        """Tries the shadow on a run of a segment with this head."""
        self.runs += 1
        self._met(run.records)
        if not self.is_of(head):
            self._settle(self._anew(run.records))
            return
        self.comparable += 1
        ended = self._as_then(head, run)
        self._settle(ended)
        if (recording.outcomes(run.records, ended), recording.found(ended)) != (run.outcomes, run.found):
            self.differing += 1

    def missed(self, missing: Missing) -> None:
        """Takes how many requests never reached the recording."""
        self.dropped[missing.primary] += missing.dropped
        self.primary_errors[missing.primary] += missing.primary_errors

    def answered(self, records: Sequence[Record]) -> None:
        """Tries the shadow on requests that were never recorded."""
        self._met(records)
        self._settle(self._anew(records))

    def snapshot(self) -> tuple[PairTally, ...]:
        """Returns the counts so far, by primary version."""
        return self._tally.snapshot()

    def _met(self, records: Sequence[Record]) -> None:
        self.received.update(record.primary for record in records)
        self.first_ns = min([self.first_ns, *(record.end_ns for record in records)])

    def _settle(self, ended: Sequence[Ended]) -> None:
        for one in ended:
            self._tally.settle(one)
            if self.feedback is not None:
                self.feedback.settle(one)

    def _as_then(self, head: Head, run: Run) -> list[Ended]:
        if run.end_ns:
            then = _Then(self._shadow, run)
            # What ran together then runs together again, whatever its size.
            return self._tried(
                run.records, Trial(then, self._chosen, head.deadline_ns, then.clock, self._segments), NEVER
            )
        if OF_THEN.isdisjoint(run.outcomes):
            return self._anew(run.records)
        return [Uncompared((record,), outcome) for record, outcome in zip(run.records, run.outcomes, strict=True)]

    def _anew(self, records: Sequence[Record]) -> list[Ended]:
        return self._tried(records, Trial(self._shadow, self._chosen, NEVER, segments=self._segments), self._batch_rows)

    def _tried(self, records: Sequence[Record], trial: Trial, batch_rows: int) -> list[Ended]:
        parsed = [parse(record, self._fits) for record in records]
        strangers = [record for record, request in zip(records, parsed, strict=True) if request is None]
        ended: list[Ended] = []
        if strangers:
            ended.append(Uncompared(strangers, NOT_COMPARABLE, inputs=unread(strangers)))
        for batch in group([request for request in parsed if request is not None], batch_rows):
            together = trial.of(batch)
            if together is None:
                together = [one for single in batch.singles() for one in trial.of(single) or ()]
            ended += together
        return ended


class _Then:
    """A shadow in the times of a recorded run."""

    def __init__(self, shadow: Shadow, run: Run) -> None:
        self.model, self.version, self.digest = shadow.model, shadow.version, shadow.digest
        self.signature, self.comparisons = shadow.signature, shadow.comparisons
        self.coalescable, self.trouble = shadow.coalescable, ""
        self._run = shadow.run
        self._end_ns = run.end_ns
        # Whoever ran was not late when the batch was made, however close it was.
        self._times: Iterator[int] = chain((0,), repeat(run.start_ns))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Runs the shadow, after which it is the end of the run of then."""
        try:
            return self._run(inputs, outputs)
        finally:
            self._times = repeat(self._end_ns)

    def clock(self) -> int:
        """Returns the nanoseconds since the epoch of then."""
        return next(self._times)
