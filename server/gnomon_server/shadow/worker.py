"""The worker: the life of one shadow worker process, from its plan to its last report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from gnomon_server.errors import LoadError
from gnomon_server.models import profile
from gnomon_server.models.fit import described
from gnomon_server.models.sources.remotes import is_remote
from gnomon_server.settings import CompareSettings, FeedbackSettings, MirrorSettings
from gnomon_server.shadow.alignment import aligned
from gnomon_server.shadow.declaration import declare
from gnomon_server.shadow.memory import Bound, private
from gnomon_server.shadow.pipeline import FORGETFUL, NOTHING, Pipeline
from gnomon_server.shadow.recorder import Recorder
from gnomon_server.shadow.trial import Shadow
from gnomon_server.wire.channel import Channel
from gnomon_server.wire.labels import Adopt, Labelled, Labels
from gnomon_server.wire.messages import Adopted, Drained, ToChild, VersionState, WorkerAck, WorkerReport
from gnomon_server.wire.plans import Drain, VersionRef, WorkerPlan

log = logging.getLogger(__name__)

# Seconds between reports, and between those that say nothing new: control takes a silent worker for dead.
REPORT_EVERY: Final = 0.2
SILENT_AT_MOST: Final = 1.0


class Worker:
    """Serves one plan; a plan that failed is kept, idle, until control says what comes next.

    `load` and the shadow run in a thread of their own, which may be stuck: `run` returns without waiting for it.
    """

    def __init__(
        self,
        channel: Channel[ToChild],
        settings: MirrorSettings,
        load: Callable[[VersionRef], Shadow],
        record: Callable[[Shadow], Recorder | None] = lambda _: None,
        bound: Bound | None = None,
        looking: Callable[[str], CompareSettings] = lambda _: NOTHING,
        remembering: Callable[[str], FeedbackSettings] = lambda _: FORGETFUL,
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._load = load
        self._record = record
        self._bound = bound if bound is not None else Bound(0)
        # What to look at beside the comparison, by model.
        self._looking = looking
        # What to remember for labels that come later, by model.
        self._remembering = remembering
        self._executor = ThreadPoolExecutor(1, "shadow")
        # Reads the primary's profile and loads its version, for which the shadow does not wait.
        self._loading = ThreadPoolExecutor(1, "primary")
        self._primary: asyncio.Task[None] | None = None
        # The primary's own version, as the newest plan names it.
        self._wished: VersionRef | None = None
        self._pipeline: Pipeline | None = None
        self._running: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Returns once drained, or at once when control is gone; raises MemoryError when the bound is reached."""
        plan = await self._channel.receive()
        if not isinstance(plan, WorkerPlan):
            return
        self._wished = plan.primary
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(self._live(plan, tasks))
            drain = await self._drain_or_end(plan, tasks)
            life.cancel()
            if self._primary is not None:
                self._primary.cancel()
            await asyncio.wait({life})
            if drain is not None:
                await self._finish(plan, drain.grace_seconds)
            if self._pipeline is not None and self._running is not None:
                self._pipeline.close()
                self._running.cancel()
        self._channel.close()
        for executor in (self._executor, self._loading):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _drain_or_end(self, plan: WorkerPlan, tasks: asyncio.TaskGroup) -> Drain | None:
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Drain):
                return message
            if isinstance(message, WorkerPlan):
                self._repeat_on(message.primary, tasks)
                continue
            if isinstance(message, Labels):
                self._label(plan, message)
                continue
            if isinstance(message, Adopt) and self._pipeline is not None:
                unknown = self._pipeline.adopt(message.labels)
                self._channel.send(Adopted(message.number, self._pipeline.report(plan.epoch), unknown))
                continue
            log.warning("expected a drain, received %s", type(message).__name__)
        return None

    async def _live(self, plan: WorkerPlan, tasks: asyncio.TaskGroup) -> None:
        """Loads, listens, acknowledges; then reports until it is cancelled."""
        try:
            shadow, pipeline = await self._start(plan)
        except LoadError as error:
            self._acknowledge(plan, "failed", reason=str(error))
            return
        self._pipeline = pipeline
        self._running = tasks.create_task(pipeline.run())
        self._acknowledge(plan, "ready", shadow=shadow)
        self._repeat_on(self._wished, tasks)
        await self._report(plan, pipeline, shadow)

    async def _start(self, plan: WorkerPlan) -> tuple[Shadow, Pipeline]:
        loaded = await asyncio.get_running_loop().run_in_executor(self._executor, self._load, plan.version)
        looking = self._looking(loaded.model)
        shadow = aligned(loaded, looking.align)
        if is_remote(plan.version) and plan.primary is not None:
            declare(shadow, plan.primary)
        record, remembering = self._record(shadow), self._remembering(loaded.model)
        own = (shadow, self._settings, plan.address, self._executor, record)
        told = (plan.horizon, plan.window, plan.passes)
        pipeline = Pipeline(*own, plan.observing, looking, remembering, *told)
        try:
            await pipeline.listen()
        except OSError as error:
            raise LoadError(f"cannot listen on {plan.address}: {error.strerror}") from None
        return shadow, pipeline

    def _repeat_on(self, primary: VersionRef | None, tasks: asyncio.TaskGroup) -> None:
        """Has requests repeated on the primary's own version once it is loaded, and until then on none."""
        self._wished = primary
        if self._pipeline is None:
            return
        if primary is not None:
            self._pipeline.beside(primary.version)
        self._pipeline.repeat_on(None)
        if self._primary is not None:
            self._primary.cancel()
        if primary is not None:
            self._primary = tasks.create_task(self._learn(self._pipeline, primary))

    def _label(self, plan: WorkerPlan, message: Labels) -> None:
        """Joins labels; whoever hears that they are joined has heard the counts before, which outlive the worker."""
        if self._pipeline is None:
            found = Labelled(message.number, 0, 0, 0, 0, len(message.labels), ("the shadow is not ready",))
        else:
            found = self._pipeline.label(message.number, message.labels)
            self._channel.send(self._pipeline.report(plan.epoch))
        self._channel.send(found)

    async def _learn(self, pipeline: Pipeline, primary: VersionRef) -> None:
        """Reads what is usual for a primary, and loads it if requests are to be repeated on it."""
        loop = asyncio.get_running_loop()
        pipeline.profiling.use(primary.version, None)
        if pipeline.profiling.wanted:
            try:
                known = await loop.run_in_executor(self._loading, profile.read, Path(primary.folder))
                pipeline.profiling.use(primary.version, known)
            except LoadError as error:
                log.warning("version %d: no drift is seen: %s", primary.version, error)
        if self._looking(primary.model).repeat:
            await self._load_primary(pipeline, primary)

    async def _load_primary(self, pipeline: Pipeline, primary: VersionRef) -> None:
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._loading, self._load, primary)
        except Exception as error:  # noqa: BLE001 - the shadow goes on without
            log.warning("no request is repeated on version %d: %s", primary.version, error)
            return
        pipeline.repeat_on(loaded)

    async def _report(self, plan: WorkerPlan, pipeline: Pipeline, shadow: Shadow) -> None:
        last: WorkerReport | None = None
        trouble = ""
        said = 0.0
        while True:
            report, now = pipeline.report(plan.epoch), time.monotonic()
            # Reports are cumulative, so that one that says nothing new may be left out.
            if report != last or now - said >= SILENT_AT_MOST:
                self._channel.send(report)
                last, said = report, now
            if (found := shadow.trouble or pipeline.trouble) != trouble:
                trouble = found
                self._acknowledge(plan, "ready", trouble, shadow)
            if self._bound.reached:
                await self._channel.flush()
                raise MemoryError(f"{private():,} bytes of private memory are nearly all that the worker may take")
            await asyncio.sleep(REPORT_EVERY)

    async def _finish(self, plan: WorkerPlan, grace: float) -> None:
        if self._pipeline is not None and self._running is not None:
            await self._pipeline.finish(self._running, grace)
            self._channel.send(self._pipeline.report(plan.epoch))
        self._channel.send(Drained())
        await self._channel.flush()

    def _acknowledge(self, plan: WorkerPlan, state: str, reason: str = "", shadow: Shadow | None = None) -> None:
        version = plan.version
        known: dict[str, Any] = (
            {} if shadow is None else {"digest": shadow.digest, "signature": described(shadow.signature)}
        )
        self._channel.send(WorkerAck(VersionState(version.model, version.version, state, reason, **known)))
