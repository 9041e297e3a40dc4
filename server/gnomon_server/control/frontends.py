"""The frontends: processes that all make the same plan true, and what they report."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import reduce
from itertools import count
from typing import Final

import msgspec

from gnomon_server.control import totals
from gnomon_server.control.bell import Bell
from gnomon_server.control.child import Child
from gnomon_server.errors import NotReady
from gnomon_server.settings import Settings
from gnomon_server.wire.messages import FromChild, FrontendAck, FrontendReport, VersionState
from gnomon_server.wire.plans import FrontendPlan, RegionRef, Regions, ReportNow
from gnomon_server.wire.questions import Answer, Question

log = logging.getLogger(__name__)

Answering = Callable[[Question], Awaitable[Answer]]
MODULE: Final = "gnomon_server.serving"
# Seconds in which a frontend that is well reports when it is asked to.
REPORT_SECONDS: Final = 1.0


class Frontends:
    """As many as the settings say until it is told others; belongs to control's event loop.

    `reported` hears every report, and the bell rings when an ack or a report came that someone may wait for.
    """

    def __init__(self, settings: Settings, bell: Bell, reported: Callable[[FrontendReport], None]) -> None:
        self._settings = settings
        self._bell = bell
        self._reported = reported
        self._numbers = count()
        self._answering: Answering | None = None
        self._children = [self._child() for _ in range(settings.workers)]
        # Those that do not answer yet, while others do.
        self._joining: list[Child] = []
        self._scaling = asyncio.Lock()
        self._plan = FrontendPlan(0, ())
        self._regions = Regions(())
        self._acks: dict[Child, FrontendAck] = {}
        self._reports: dict[Child, FrontendReport] = {}
        # What those counted that are gone.
        self._departed = FrontendReport((), (), (), (), 0, 0)
        # Of the newest ReportNow.
        self._asked = 0
        self._counting = asyncio.Lock()
        # The round of reports that has not begun.
        self._next_counts: asyncio.Task[FrontendReport] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, answering: Answering | None) -> None:
        """Starts them; `answering` answers their questions."""
        self._answering = answering
        for child in self._children:
            child.start()

    @property
    def all(self) -> list[Child]:
        """The processes, those that are to join among them."""
        return [*self._children, *self._joining]

    @property
    def counts(self) -> FrontendReport:
        """What all of them have counted since control began."""
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
        for child in self._children:
            child.send(self._regions)
        # What a frontend reports now, it reports after it has heard of them.
        await self.counts_of_now()

    def wish(self, plan: FrontendPlan) -> None:
        """Has them make a plan true."""
        self._plan = plan
        for child in self.all:
            child.send(plan)

    def settled(self, generation: int) -> bool:
        """Whether all of them have made a generation true."""
        return all(child in self._acks and self._acks[child].generation >= generation for child in self._children)

    def states(self, model: str, version: int) -> list[VersionState | None]:
        """Returns how each of them stands with a version; None where it says nothing of it."""
        return [
            next((one for one in known if (one.model, one.version) == (model, version)), None)
            for known in (self._acks[child].versions if child in self._acks else () for child in self._children)
        ]

    async def scale(self, number: int, seconds: float) -> int:
        """Makes it so many frontends and returns their number; those that leave finish their calls first.

        Returns once the new ones answer; raises NotReady if one does not in time, and leaves the old number.
        """
        async with self._scaling:
            self._joining = [self._child() for _ in range(number - len(self._children))]
            for child in self._joining:
                child.start()
            try:
                await self._bell.until(lambda: self._acks.keys() >= set(self._joining), seconds)
            except TimeoutError:
                leaving, self._joining = self._joining, []
                await asyncio.gather(*(child.kill() for child in leaving))
                raise NotReady(f"not every new frontend answered within {seconds:g} s") from None
            leaving = self._children[number:]
            self._children = [*self._children[:number], *self._joining]
            self._joining = []
            await asyncio.gather(*(child.drain(self._settings.grace) for child in leaving))
            return len(self._children)

    async def drain(self, grace: float) -> None:
        """Has them finish their calls within so many seconds, and ends them."""
        await asyncio.gather(*(child.drain(grace) for child in self.all), *self._tasks)

    async def _count_anew(self) -> FrontendReport:
        async with self._counting:
            # From here on, another round is needed to know of what happens now.
            self._next_counts = None
            self._asked += 1
            number = self._asked
            for child in self._children:
                child.send(ReportNow(number))
            try:
                await self._bell.until(lambda: self._have_reported(number), REPORT_SECONDS)
            except TimeoutError:
                log.warning("not every frontend reported within %g s", REPORT_SECONDS)
            return self.counts

    def _have_reported(self, number: int) -> bool:
        reports = [self._reports.get(child) for child in self._children if child.alive]
        return all(report is not None and report.number >= number for report in reports)

    def _child(self) -> Child:
        settings = msgspec.json.encode(self._settings).decode()
        return Child(f"frontend-{next(self._numbers)}", MODULE, settings, self._born, self._heard, self._died)

    def _born(self, child: Child) -> None:
        child.send(self._regions)
        if self._plan.generation:
            child.send(self._plan)

    def _heard(self, child: Child, message: FromChild) -> None:
        if isinstance(message, FrontendAck):
            self._acks[child] = message
            self._bell.ring()
        elif isinstance(message, FrontendReport):
            before, self._reports[child] = self._reports.get(child), message
            self._reported(message)
            if before is None or message.number > before.number:
                self._bell.ring()
        elif isinstance(message, Question) and self._answering is not None:
            self._begin(self._answer(child, self._answering(message)))

    def _died(self, child: Child) -> None:
        self._acks.pop(child, None)
        report = self._reports.pop(child, None)
        if report is not None:
            self._departed = totals.added(self._departed, report)
        self._bell.ring()

    async def _answer(self, child: Child, answering: Awaitable[Answer]) -> None:
        life = child.life
        answer = await answering
        # Another life has other questions under the same numbers.
        if child.life == life:
            child.send(answer)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
