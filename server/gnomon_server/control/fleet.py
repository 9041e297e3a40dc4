"""The fleet: frontends and shadow workers, kept in line with the routes."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from gnomon_server.control.bell import Bell
from gnomon_server.control.differences import Differences
from gnomon_server.control.drift.windows import Windows
from gnomon_server.control.frontends import Answering, Frontends
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
from gnomon_server.wire.messages import FromChild, FrontendReport, VersionState, WorkerAck, WorkerReport
from gnomon_server.wire.plans import FrontendPlan, VersionRef
from gnomon_server.wire.traces import CallTrace, ShadowTrace

log = logging.getLogger(__name__)

Traces = Callable[[Sequence[CallTrace], Sequence[ShadowTrace]], None]


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
        # Rung when an ack or a report has come that someone may wait for.
        self._bell = Bell()
        self.frontends = Frontends(settings, self._bell, self._frontend_reported)
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

    def start(self, answering: Answering | None = None) -> None:
        """Starts the frontends, whose questions `answering` answers; shadow workers start as routes ask for them."""
        self.frontends.start(answering)

    @property
    def planned(self) -> bool:
        """Whether anything was wished yet."""
        return self._plan.generation > 0

    @property
    def ready(self) -> bool:
        """Whether every primary answers in every frontend."""
        return self.frontends.settled(self._plan.generation) and all(
            self.frontend_state(route.model, route.primary).state == READY
            for route in self._routes.values()
            if route.primary
        )

    @property
    def pids(self) -> dict[str, int]:
        """The living processes by name."""
        children = [*self.frontends.all, *(worker.child for worker in self._workers.values())]
        return {child.name: child.pid for child in children if child.pid is not None}

    @property
    def queue_depths(self) -> dict[Key, int]:
        """Requests that wait in each shadow worker."""
        return {key: worker.queue_depth for key, worker in self._workers.items()}

    @property
    def counts(self) -> FrontendReport:
        """What all frontends have counted since control began."""
        return self.frontends.counts

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
            await self._bell.until(lambda: self.frontends.settled(generation), seconds)
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
        states = self.frontends.states(model, version)
        failed = [state for state in states if state is not None and state.state == FAILED]
        if failed:
            return failed[0]
        route = self._routes.get(model)
        wanted = (route is not None and bool(route.role(version))) or (model, version) in self._warm | self._named
        if not wanted:
            return VersionState(model, version, UNLOADED)
        ready = [state for state in states if state is not None and state.state == READY]
        return ready[0] if ready and len(ready) == len(states) else VersionState(model, version, LOADING)

    @asynccontextmanager
    async def tried(self, key: Key, seconds: float) -> AsyncIterator[VersionState]:
        """Has a version loaded as a shadow is, and gives how it stands; within the block it stays so.

        Where that takes too long, or its worker dies, it is still "loading".
        """
        self._tried[key] += 1
        self._adjust_workers()
        try:
            with suppress(TimeoutError):
                await self._bell.until(lambda: self._said(key), seconds)
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

    async def stop(self, grace: float) -> None:
        """Drains frontends first, then what they handed to the workers; kills what does not end."""
        await self.frontends.drain(grace)
        await asyncio.gather(*(worker.child.drain(grace) for worker in self._workers.values()), *self._tasks)
        self._folder.cleanup()

    def _replan(self) -> int:
        feeds = {key: worker.feed for key, worker in self._workers.items() if worker.feed is not None}
        warm = self._warm | self._named
        plan = frontend_plan(self._plan.generation, self._mirrored, self._refs, feeds, warm, self._factors)
        if plan != self._plan or not plan.generation:
            self._plan = msgspec.structs.replace(plan, generation=self._plan.generation + 1)
            self.frontends.wish(self._plan)
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

    def _frontend_reported(self, report: FrontendReport) -> None:
        self._ledger.frontend_reported(report.feeds)
        self._traces(report.traces, ())

    def worker_heard(self, message: FromChild) -> None:
        """Takes what a shadow worker says."""
        if isinstance(message, WorkerAck):
            self._replan()
            self._bell.ring()
        elif isinstance(message, WorkerReport):
            self._ledger.worker_reported(message)
            self.differences.worker_reported(message)
            self.windows.reported(message.windows)
            self._traces((), message.traces)

    def worker_ended(self, epoch: str) -> None:
        """Takes that a life of a shadow worker is over, after its last message."""
        self._ledger.epoch_ended(epoch)
        self._bell.ring()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
