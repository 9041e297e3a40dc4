"""The pipeline of a worker: intake, backlog, runner, tally and traces, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Final

from gnomon_server.errors import LoadError
from gnomon_server.settings import CompareSettings, FeedbackSettings, MirrorSettings
from gnomon_server.shadow.backlog import Backlog
from gnomon_server.shadow.batching import Batch
from gnomon_server.shadow.choice import Chosen, choose
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.differences import Differences
from gnomon_server.shadow.feedback import Feedback, Judging
from gnomon_server.shadow.intake import Arrivals, Intake
from gnomon_server.shadow.outcome import DROPPED, TIMEOUT, Ended, Uncompared
from gnomon_server.shadow.profiling import Profiling
from gnomon_server.shadow.recorder import Recorder
from gnomon_server.shadow.repetition import Repeated, Repetition
from gnomon_server.shadow.runner import Runner
from gnomon_server.shadow.sequences import Lost
from gnomon_server.shadow.tally import Tally
from gnomon_server.shadow.traces import Traces
from gnomon_server.shadow.trial import Shadow, Trial
from gnomon_server.shadow.truth import truth
from gnomon_server.wire.counts import SourceCount
from gnomon_server.wire.labels import Label, Labelled
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.plans import Observing
from gnomon_server.wire.record import Loss, Record

# Looks at nothing beside the comparison.
NOTHING: Final = CompareSettings(repeat=0.0, keep=0, segment_rows=0)
# Remembers no request.
FORGETFUL: Final = FeedbackSettings(keep=0)


class Pipeline:
    """From records in to reports out, for one shadow; every record that arrives ends in exactly one outcome.

    Owned by one event loop; the shadow itself runs in the executor's thread. Raises LoadError at once if the shadow's
    manifest declares comparisons that cannot be made.
    """

    def __init__(
        self,
        shadow: Shadow,
        settings: MirrorSettings,
        address: str,
        executor: Executor,
        recorder: Recorder | None = None,
        observing: Observing = Observing(),  # noqa: B008 - it is frozen
        looking: CompareSettings = NOTHING,
        remembering: FeedbackSettings = FORGETFUL,
        horizon: float = 0.0,
        window: float = 0.0,
        passes: bool = False,
    ) -> None:
        self._model, self._version = shadow.model, shadow.version
        self._deadline_ns = round(settings.deadline * 1e9)
        chosen = choose(shadow.signature, shadow.comparisons)
        self._tally = Tally(shadow.model, shadow.version, chosen, observing)
        self._traces = Traces(shadow.model, shadow.version, looking.traces)
        self._recorder = recorder
        self._executor = executor
        self._repetition = Repetition(shadow, chosen, looking.repeat)
        self._differences = Differences(looking)
        self.profiling = Profiling(shadow.model, shadow.version, window)
        judging = Judging(horizon, observing)
        self._feedback = _feedback(shadow, chosen, remembering, judging, settings.deadline, passes)
        # Whether nothing more comes.
        self._over = False
        self._repeating: set[asyncio.Future[Repeated | None]] = set()
        # Sequences of which a request found no room.
        self._refused = Lost()
        self._backlog = Backlog(settings.queue_bytes, settings.batch_rows)
        self._runner = Runner(
            Trial(shadow, chosen, self._deadline_ns, segments=observing.segments),
            Fits(shadow.signature, shadow.coalescable),
            self._backlog,
            settings.batch_rows,
            executor,
            self._settle,
        )
        self._intake = Intake(self.take, address, self._never_came)

    @property
    def trouble(self) -> str:
        """Why it does less than it was told to; empty while all is well."""
        return self._recorder.failure if self._recorder is not None else ""

    async def listen(self) -> None:
        """Opens the intake; raises OSError if it cannot listen."""
        await self._intake.open()

    async def run(self) -> None:
        """Works until `finish` has been called and nothing is left."""
        await self._runner.run()

    def repeat_on(self, primary: Shadow | None) -> None:
        """Sets the primary's own version, on which a share of its requests is run again; None: no request is."""
        self._repetition.use(primary)

    def beside(self, primary: int) -> None:
        """Takes which version is the primary now."""
        self._feedback.primary = primary

    def label(self, number: int, labels: Sequence[Label]) -> Labelled:
        """Joins labels to the requests they are about; returns what became of them."""
        return self._feedback.take(number, labels)

    def adopt(self, labels: Sequence[Label]) -> tuple[Label, ...]:
        """Joins labels that another server passed on; returns those of unknown requests, which are not counted."""
        return self._feedback.adopt(labels)

    def take(self, record: Record, size: int) -> None:
        """Takes a record of `size` bytes, or counts it as dropped."""
        if self._refused.follows(record) or not self._backlog.offer(record, size):
            self._refused.add((record,))
            self._never_ran((record,), DROPPED)

    def report(self, epoch: str) -> WorkerReport:
        """Returns the counts so far, and the traces and what sources ended since the last report."""
        # Even while the shadow is stuck, those that wait behind it come to their end.
        expired = self._backlog.expire(time.time_ns() - self._deadline_ns)
        self._runner.lose(expired)
        self._never_ran(expired, TIMEOUT)
        if self._recorder is not None:
            self._recorder.tend()
        arrivals = self._intake.arrivals()
        return WorkerReport(
            epoch=epoch,
            pairs=self._tally.snapshot(),
            sources=tuple(count for arrived in arrivals for count in self._received(arrived)),
            ended=tuple(arrived.source for arrived in arrivals if arrived.ended),
            queue_depth=len(self._backlog) + self._runner.unsettled,
            traces=self._traces.take(),
            traces_dropped=self._traces.dropped,
            kept=self._differences.kept(),
            searches=self._differences.searched(),
            labels=self._feedback.snapshot(self._model, self._version),
            windows=self.profiling.report(last=self._over),
        )

    async def finish(self, running: asyncio.Task[None], grace: float) -> None:
        """Stops the intake and ends `running`, the task of `run`, within `grace` seconds; drops what remains."""
        until = time.monotonic() + grace
        await self._intake.drain(grace)
        self._backlog.close()
        await asyncio.wait({running}, timeout=max(0.0, until - time.monotonic()))
        running.cancel()
        await asyncio.wait({running})
        if self._repeating:
            await asyncio.wait(self._repeating, timeout=max(0.0, until - time.monotonic()))
        self._give_up([*self._runner.abandon(), *self._backlog.take(len(self._backlog))])
        self._tally.end()
        self._over = True
        self._feedback.end()
        await self._differences.finish(max(0.0, until - time.monotonic()))
        if self._recorder is not None:
            self._recorder.close()

    def close(self) -> None:
        """Stops the intake at once, counting nothing more."""
        self._intake.close()

    def _received(self, arrived: Arrivals) -> list[SourceCount]:
        return [
            SourceCount(self._model, primary, self._version, arrived.source, count)
            for primary, count in arrived.received.items()
        ]

    def _give_up(self, records: list[Record]) -> None:
        limit = time.time_ns() - self._deadline_ns
        for record in records:
            self._never_ran((record,), TIMEOUT if record.end_ns < limit else DROPPED)

    def _never_came(self, loss: Loss) -> None:
        """Takes word of requests that were selected and do not come: frontends count them, a recording keeps it."""
        if self._recorder is not None:
            self._recorder.lost(loss)

    def _never_ran(self, records: Sequence[Record], outcome: str) -> None:
        if records:
            self._settle(records, (Uncompared(records, outcome),))

    def _settle(self, records: Sequence[Record], ended: Sequence[Ended]) -> None:
        for one in ended:
            self._tally.settle(one)
            self._traces.settle(one)
            self._feedback.settle(one)
            self.profiling.settle(one)
            if isinstance(one, Compared):
                self._differences.settle(one)
                self._repeat(one.batch)
        if self._recorder is not None:
            self._recorder.settle(records, ended)

    def _repeat(self, batch: Batch) -> None:
        """Has a share of a batch run again, before the next batch: both share a thread."""
        selected = self._repetition.select(batch)
        if selected is not None:
            future = asyncio.get_running_loop().run_in_executor(self._executor, self._repetition.of, selected)
            self._repeating.add(future)
            future.add_done_callback(self._repeated)

    def _repeated(self, future: asyncio.Future[Repeated | None]) -> None:
        self._repeating.discard(future)
        if not future.cancelled() and (repeated := future.result()) is not None:
            self._tally.repeated(repeated)


def _feedback(
    shadow: Shadow,
    chosen: Mapping[str, Chosen],
    settings: FeedbackSettings,
    judging: Judging,
    wait: float,
    passes: bool,
) -> Feedback:
    """Returns what joins labels; raises LoadError where labels are to be judged, or named, and cannot be."""
    try:
        known = truth(shadow.model, shadow.signature, chosen, settings)
        return Feedback(known, settings, judging, wait, passes=passes)
    except LoadError as error:
        if judging.horizon or settings.output:
            raise
        return Feedback(None, settings, judging, wait, str(error))
