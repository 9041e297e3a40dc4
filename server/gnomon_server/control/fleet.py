"""The fleet: frontends and shadow workers, kept in line with the routes."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from gnomon_server.control import totals
from gnomon_server.control.child import Child
from gnomon_server.control.differences import Differences
from gnomon_server.control.drift.windows import Windows
from gnomon_server.control.guarding import Guarding, Thinning
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.plan import Key, frontend_plan, named, watched
from gnomon_server.control.routes import Route
from gnomon_server.control.worker import Adopting, Worker
from gnomon_server.errors import NotReady, Refused
from gnomon_server.models.lifecycle import FAILED, LOADING, READY, UNLOADED
from gnomon_server.models.sources.remotes import is_remote
from gnomon_server.settings import Settings
from gnomon_server.wire.labels import Label, Labelled
from gnomon_server.wire.messages import FromChild, FrontendAck, FrontendReport, VersionState, WorkerAck, WorkerReport
from gnomon_server.wire.plans import FrontendPlan, RegionRef, Regions, ReportNow, VersionRef
from gnomon_server.wire.questions import Answer, Question
from gnomon_server.wire.traces import CallTrace, ShadowTrace

log = logging.getLogger(__name__)

Traces = Callable[[Sequence[CallTrace], Sequence[ShadowTrace]], None]
Answering = Callable[[Question], Awaitable[Answer]]
FRONTEND: Final = "gnomon_server.serving"
# Seconds in which a frontend that is well reports when it is asked to.
REPORT_SECONDS: Final = 1.0


class Fleet:
    """Every child of control; belongs to control's event loop."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        traces: Traces,
        thinnings: Iterable[Thinning] = (),
        passes: bool = False,
    ) -> None:
        """Where it `passes` labels on, the ledger holds those whose requests no worker knows."""
        self._settings = settings
        self._passes = passes
        self._ledger = ledger
        self._traces = traces
        # Where shadows disagree.
        self.differences = Differences(settings)
        # What is counted of the traffic.
        self.windows = Windows()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="gnomon-")
        except OSError as error:
            raise Refused(f"no folder for temporary files can be written ({error}): set TMPDIR to one") from None
        self._numbers = count()
        self._frontends = [self._frontend() for _ in range(settings.workers)]
        # Those that do not answer yet, while others do.
        self._joining: list[Child] = []
        self._scaling = asyncio.Lock()
        self._workers: dict[Key, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._routes: Mapping[str, Route] = {}
        # With the primaries that are mirrored to themselves, for want of a shadow.
        self._mirrored: Mapping[str, Route] = {}
        self._refs: Mapping[Key, VersionRef] = {}
        self._warm: frozenset[Key] = frozenset()
        # Versions that the settings have answer when they are named.
        self._named: frozenset[Key] = frozenset()
        # Loaded in a worker that nothing is mirrored to, and for how many who look at them.
        self._tried: Counter[Key] = Counter()
        self.guarding = Guarding(settings.guard, self)
        self.guarding.restore(thinnings)
        self._factors: Mapping[str, float] = {}
        self._plan = FrontendPlan(0, ())
        self._acks: dict[Child, FrontendAck] = {}
        # Whether an ack or a report has come that someone may wait for.
        self._heard_of = asyncio.Condition()
        self._reports: dict[Child, FrontendReport] = {}
        self._regions = Regions(())
        # Of the newest ReportNow.
        self._asked = 0
        self._counting = asyncio.Lock()
        # The round of reports that has not begun.
        self._next_counts: asyncio.Task[FrontendReport] | None = None
        self._answering: Answering | None = None
        # What frontends counted that are gone.
        self._departed = FrontendReport((), (), (), (), 0, 0)

    def start(self, answering: Answering | None = None) -> None:
        """Starts the frontends, whose questions `answering` answers; shadow workers start as routes ask for them."""
        self._answering = answering
        for frontend in self._frontends:
            frontend.start()

    @property
    def planned(self) -> bool:
        """Whether anything was wished yet."""
        return self._plan.generation > 0

    @property
    def ready(self) -> bool:
        """Whether every primary answers in every frontend."""
        return self._settled(self._plan.generation) and all(
            self.frontend_state(route.model, route.primary).state == READY
            for route in self._routes.values()
            if route.primary
        )

    @property
    def pids(self) -> dict[str, int]:
        """The living processes by name."""
        children = [*self._frontends, *self._joining, *(worker.child for worker in self._workers.values())]
        return {child.name: child.pid for child in children if child.pid is not None}

    @property
    def queue_depths(self) -> dict[Key, int]:
        """Requests that wait in each shadow worker."""
        return {key: worker.queue_depth for key, worker in self._workers.items()}

    @property
    def counts(self) -> FrontendReport:
        """What all frontends have counted since control began."""
        return reduce(totals.added, self._reports.values(), self._departed)

    async def counts_of_now(self) -> FrontendReport:
        """Returns the counts after every frontend has reported anew; of one that does not, what it said last.

        Whoever asks while frontends are about to report shares the next round with all others who do.
        """
        if self._next_counts is None:
            self._next_counts = asyncio.create_task(self._count_anew())
        return await asyncio.shield(self._next_counts)

    async def share(self, regions: tuple[RegionRef, ...]) -> None:
        """Has every frontend know these regions, and no others."""
        self._regions = Regions(regions)
        for frontend in self._frontends:
            frontend.send(self._regions)
        # What a frontend reports now, it reports after it has heard of them.
        await self.counts_of_now()

    def wish(
        self, routes: Mapping[str, Route], refs: Mapping[Key, VersionRef], warm: frozenset[Key] = frozenset()
    ) -> int:
        """Sets what should be; returns the generation that `settled` waits for."""
        self._routes, self._refs, self._warm = routes, refs, warm
        self._mirrored = {name: watched(route, self._settings.model(name).drift) for name, route in routes.items()}
        self._named = frozenset(
            key for route in routes.values() if route.primary for key in self._named_of(route.model)
        )
        self._adjust_workers()
        return self._replan()

    def thin(self, factors: Mapping[str, float]) -> None:
        """Mirrors these parts of each shadow's share, by model, until it is told others; a model left out, all."""
        if factors != self._factors:
            self._factors = factors
            self._replan()

    async def settled(self, generation: int, seconds: float) -> None:
        """Waits until every frontend has made a generation true; raises NotReady if that takes too long."""
        try:
            async with self._heard_of, asyncio.timeout(seconds):
                await self._heard_of.wait_for(lambda: self._settled(generation))
        except TimeoutError:
            raise NotReady(f"not every frontend followed within {seconds:g} s") from None

    def state(self, model: str, version: int) -> VersionState:
        """Returns how a version stands where its role needs it: in its shadow worker, or else in the frontends."""
        route, worker = self._routes.get(model), self._workers.get((model, version))
        shadow = worker is not None and not (route is not None and version == route.primary)
        return worker.state if worker is not None and shadow else self.frontend_state(model, version)

    def named(self, model: str, version: int) -> bool:
        """Whether the settings have a version answer when it is named, whatever its role."""
        return (model, version) in self._named

    def standing(self, model: str, version: int) -> VersionState:
        """Returns how a version stands to users: as `state`, but a canary that is a shadow too, in the frontends."""
        route = self._routes.get(model)
        canary = route is not None and version == route.canary
        return self.frontend_state(model, version) if canary else self.state(model, version)

    def frontend_state(self, model: str, version: int) -> VersionState:
        """Returns how a version stands in all frontends together."""
        states = [
            state
            for frontend in self._frontends
            for state in (self._acks[frontend].versions if frontend in self._acks else ())
            if (state.model, state.version) == (model, version)
        ]
        failed = [state for state in states if state.state == FAILED]
        if failed:
            return failed[0]
        route = self._routes.get(model)
        wanted = (route is not None and bool(route.role(version))) or (model, version) in self._warm | self._named
        if not wanted:
            return VersionState(model, version, UNLOADED)
        if len(states) < len(self._frontends) or any(state.state != READY for state in states):
            return VersionState(model, version, LOADING)
        return states[0]

    @asynccontextmanager
    async def tried(self, key: Key, seconds: float) -> AsyncIterator[VersionState]:
        """Has a version loaded as a shadow is, and gives how it stands; within the block it stays so.

        Where that takes too long, or its worker dies, it is still "loading".
        """
        self._tried[key] += 1
        self._adjust_workers()
        try:
            with suppress(TimeoutError):
                async with self._heard_of, asyncio.timeout(seconds):
                    await self._heard_of.wait_for(lambda: self._said(key))
            yield self.state(*key)
        finally:
            self._tried[key] -= 1
            self._adjust_workers()

    def _said(self, key: Key) -> bool:
        """Whether a worker has said what becomes of its version, or will not."""
        worker = self._workers.get(key)
        return worker is None or worker.state.state != LOADING or bool(worker.state.reason)

    async def label(self, model: str, version: int, labels: Sequence[Label]) -> Labelled:
        """Has a shadow join labels to the requests that it answered; raises NotReady."""
        worker = self._workers.get((model, version))
        if worker is None:
            raise NotReady(f"model '{model}' version {version}: the shadow is not started yet; try again")
        return await worker.label(labels)

    def adopt(self, model: str, version: int, labels: Sequence[Label], left: Adopting) -> None:
        """Has a shadow join labels that another server passed on; tells `left` which are still nobody's."""
        worker = self._workers.get((model, version))
        if worker is None:
            left(labels)
        else:
            worker.adopt(labels, left)

    async def scale(self, workers: int, seconds: float) -> int:
        """Makes it so many frontends and returns their number; those that leave finish their calls first.

        Returns once the new ones answer; raises NotReady if one does not in time, and leaves the old number.
        """
        async with self._scaling:
            self._joining = [self._frontend() for _ in range(workers - len(self._frontends))]
            for frontend in self._joining:
                frontend.start()
            try:
                async with self._heard_of, asyncio.timeout(seconds):
                    await self._heard_of.wait_for(lambda: self._acks.keys() >= set(self._joining))
            except TimeoutError:
                leaving, self._joining = self._joining, []
                await asyncio.gather(*(frontend.kill() for frontend in leaving))
                raise NotReady(f"not every new frontend answered within {seconds:g} s") from None
            leaving = self._frontends[workers:]
            self._frontends = [*self._frontends[:workers], *self._joining]
            self._joining = []
            await asyncio.gather(*(frontend.drain(self._settings.grace) for frontend in leaving))
            return len(self._frontends)

    async def stop(self, grace: float) -> None:
        """Drains frontends first, then what they handed to the workers; kills what does not end."""
        await asyncio.gather(*(frontend.drain(grace) for frontend in (*self._frontends, *self._joining)))
        await asyncio.gather(*(worker.child.drain(grace) for worker in self._workers.values()), *self._tasks)
        self._folder.cleanup()

    def _settled(self, generation: int) -> bool:
        return all(
            frontend in self._acks and self._acks[frontend].generation >= generation for frontend in self._frontends
        )

    async def _count_anew(self) -> FrontendReport:
        async with self._counting:
            # From here on, another round is needed to know of what happens now.
            self._next_counts = None
            self._asked += 1
            number = self._asked
            for frontend in self._frontends:
                frontend.send(ReportNow(number))
            try:
                async with self._heard_of, asyncio.timeout(REPORT_SECONDS):
                    await self._heard_of.wait_for(lambda: all(self._reported(f, number) for f in self._frontends))
            except TimeoutError:
                log.warning("not every frontend reported within %g s", REPORT_SECONDS)
            return self.counts

    def _reported(self, frontend: Child, number: int) -> bool:
        report = self._reports.get(frontend)
        return not frontend.alive or (report is not None and report.number >= number)

    def _replan(self) -> int:
        feeds = {key: worker.feed for key, worker in self._workers.items() if worker.feed is not None}
        warm = self._warm | self._named
        plan = frontend_plan(self._plan.generation, self._mirrored, self._refs, feeds, warm, self._factors)
        if plan != self._plan or not plan.generation:
            self._plan = msgspec.structs.replace(plan, generation=self._plan.generation + 1)
            for frontend in (*self._frontends, *self._joining):
                frontend.send(self._plan)
        return self._plan.generation

    def _adjust_workers(self) -> None:
        wanted = {(route.model, version) for route in self._mirrored.values() for version in route.shadows}
        wanted = {key for key in wanted | (+self._tried).keys() if key in self._refs}
        for key in wanted - self._workers.keys():
            worker = Worker(self._refs[key], Path(self._folder.name), self._settings, self, self._passes)
            self._workers[key] = worker
            worker.child.start()
        for (model, _), worker in self._workers.items():
            worker.beside(self._primary_ref(model))
        for key in self._workers.keys() - wanted:
            self._begin(self._retire(self._workers.pop(key)))

    def _named_of(self, model: str) -> set[Key]:
        versions = [key[1] for key, ref in self._refs.items() if key[0] == model and not is_remote(ref)]
        return {(model, version) for version in named(self._settings.model(model).versions, versions)}

    def _primary_ref(self, model: str) -> VersionRef | None:
        route = self._routes.get(model)
        return self._refs.get((model, route.primary)) if route is not None else None

    async def _retire(self, worker: Worker) -> None:
        """Ends a worker once no frontend feeds it any more, so that what was handed over is still compared."""
        try:
            await self.settled(self._plan.generation, self._settings.grace)
        except NotReady as error:
            log.warning("%s: %s", worker.child.name, error)
        await worker.child.drain(self._settings.grace)

    def _frontend(self) -> Child:
        settings = msgspec.json.encode(self._settings).decode()
        return Child(f"frontend-{next(self._numbers)}", FRONTEND, settings, self._born, self._heard, self._died)

    def _born(self, frontend: Child) -> None:
        frontend.send(self._regions)
        if self._plan.generation:
            frontend.send(self._plan)

    def _heard(self, frontend: Child, message: FromChild) -> None:
        if isinstance(message, FrontendAck):
            self._acks[frontend] = message
            self._notify()
        elif isinstance(message, FrontendReport):
            before, self._reports[frontend] = self._reports.get(frontend), message
            self._ledger.frontend_reported(message.feeds)
            self._traces(message.traces, ())
            if before is None or message.number > before.number:
                self._notify()
        elif isinstance(message, Question) and self._answering is not None:
            self._begin(self._answer(frontend, self._answering(message)))

    def _died(self, frontend: Child) -> None:
        self._acks.pop(frontend, None)
        report = self._reports.pop(frontend, None)
        if report is not None:
            self._departed = totals.added(self._departed, report)
        self._notify()

    def worker_heard(self, message: FromChild) -> None:
        """Takes what a shadow worker says."""
        if isinstance(message, WorkerAck):
            self._replan()
            self._notify()
        elif isinstance(message, WorkerReport):
            self._ledger.worker_reported(message)
            self.differences.worker_reported(message)
            self.windows.reported(message.windows)
            self._traces((), message.traces)

    def worker_ended(self, epoch: str) -> None:
        """Takes that a life of a shadow worker is over, after its last message."""
        self._ledger.epoch_ended(epoch)
        self._notify()

    async def _answer(self, frontend: Child, answering: Awaitable[Answer]) -> None:
        life = frontend.life
        answer = await answering
        # Another life has other questions under the same numbers.
        if frontend.life == life:
            frontend.send(answer)

    def _notify(self) -> None:
        async def notify() -> None:
            async with self._heard_of:
                self._heard_of.notify_all()

        self._begin(notify())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
