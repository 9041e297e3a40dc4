"""A shadow worker as control sees it: one version, over all the lives of its process."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final, Protocol

import msgspec

from gnomon_server.control.child import Child
from gnomon_server.errors import NotReady
from gnomon_server.models.lifecycle import FAILED, LOADING, READY
from gnomon_server.models.sources.remotes import is_remote
from gnomon_server.settings import Settings
from gnomon_server.wire.labels import Adopt, Label, Labelled, Labels
from gnomon_server.wire.messages import Adopted, FromChild, VersionState, WorkerAck, WorkerReport
from gnomon_server.wire.plans import ShadowFeed, VersionRef, WorkerPlan, observing

log = logging.getLogger(__name__)

Adopting = Callable[[Sequence[Label]], None]
MODULE: Final = "gnomon_server.shadow"
# In which a worker that is well has joined what it was given.
LABEL_SECONDS: Final = 10.0


class Owner(Protocol):
    """What a worker tells its fleet."""

    def worker_heard(self, message: FromChild) -> None:
        """Takes a message, after the worker has taken its own part of it."""

    def worker_ended(self, epoch: str) -> None:
        """Takes that a life is over, after its last message."""


class Worker:
    """Knows the state of its version and where frontends find it; each life is an epoch of its own."""

    def __init__(self, ref: VersionRef, folder: Path, settings: Settings, owner: Owner, passes: bool = False) -> None:
        mirror = settings.mirror_of(ref.model, ref.version)
        self._ref = ref
        policy = settings.policy_of(ref.model)
        self._observing, self._horizon = observing(policy), policy.labels
        self._window = settings.model(ref.model).drift.window
        self._folder = folder
        self._owner = owner
        self._passes = passes
        self._primary: VersionRef | None = None
        self._epoch = ""
        self.state = VersionState(ref.model, ref.version, LOADING)
        self.queue_depth = 0
        # Where to mirror to: of the newest life that was ready, kept while the next one starts, so that what is
        # selected meanwhile is counted as dropped.
        self.feed: ShadowFeed | None = None
        self.child = Child(
            name=f"shadow {ref.model}/{ref.version}",
            module=MODULE,
            settings=msgspec.json.encode(msgspec.structs.replace(settings, mirror=mirror)).decode(),
            born=self._born,
            heard=self._heard,
            died=self._died,
            patience=mirror.lives,
        )
        self._silence = mirror.silence
        # Answers that are waited for, by number.
        self._numbers = count(1)
        self._joining: dict[int, asyncio.Future[Labelled]] = {}
        # Labels that other servers passed on, and who is told of those that remain, by number.
        self._adopting: dict[int, tuple[Sequence[Label], Adopting]] = {}
        # Runs out when a worker that was ready has said nothing for too long.
        self._watch: asyncio.TimerHandle | None = None

    def beside(self, primary: VersionRef | None) -> None:
        """Takes which version is the primary now."""
        if primary != self._primary:
            self._primary = primary
            self.child.send(self._plan)

    async def label(self, labels: Sequence[Label]) -> Labelled:
        """Has labels joined; raises NotReady where nobody says what became of them."""
        where = f"model '{self._ref.model}' version {self._ref.version}"
        if self.state.state != READY:
            raise NotReady(f"{where}: the shadow is {self.state.state} and takes no labels; try again")
        number = next(self._numbers)
        joining: asyncio.Future[Labelled] = asyncio.get_running_loop().create_future()
        self._joining[number] = joining
        self.child.send(Labels(number, tuple(labels)))
        try:
            async with asyncio.timeout(LABEL_SECONDS):
                return await joining
        except TimeoutError:
            raise NotReady(f"{where}: the shadow did not take the labels within {LABEL_SECONDS:g} s") from None
        finally:
            del self._joining[number]

    def adopt(self, labels: Sequence[Label], left: Adopting) -> None:
        """Has labels joined that another server passed on; tells `left` which are still nobody's.

        What was counted of the others was heard in the same moment.
        """
        if self.state.state != READY:
            left(labels)
            return
        number = next(self._numbers)
        self._adopting[number] = labels, left
        self.child.send(Adopt(number, tuple(labels)))

    @property
    def _plan(self) -> WorkerPlan:
        where, judged = (self._ref, self._address, self._epoch), (self._observing, self._primary, self._horizon)
        return WorkerPlan(*where, *judged, self._window, self._passes)

    def _born(self, child: Child) -> None:
        self._epoch = uuid.uuid4().hex
        child.send(self._plan)

    def _heard(self, child: Child, message: FromChild) -> None:
        if isinstance(message, WorkerAck):
            before, self.state = self.state.state, message.version
            if self.state.state == READY:
                if before != READY:
                    child.begins()
                ref, elsewhere = self._ref, is_remote(self._ref)
                self.feed = ShadowFeed(ref.model, ref.version, 1.0, self._address, self._epoch, elsewhere)
        elif isinstance(message, WorkerReport):
            self.queue_depth = message.queue_depth
            self._listen_for(self._silence)
        elif isinstance(message, Labelled):
            joining = self._joining.get(message.number)
            if joining is not None and not joining.done():
                joining.set_result(message)
        elif isinstance(message, Adopted):
            self._owner.worker_heard(message.report)
            _, left = self._adopting.pop(message.number)
            left(message.unknown)
        self._owner.worker_heard(message)

    def _died(self, child: Child) -> None:
        self._listen_for(None)
        for joining in self._joining.values():
            if not joining.done():
                joining.set_exception(NotReady(f"{child.name} {child.ending}: send the labels again"))
        if self.state.state != FAILED:
            self.state = self._after(child)
        adopting, self._adopting = self._adopting, {}
        for labels, left in adopting.values():
            left(labels)
        self.queue_depth = 0
        self._owner.worker_ended(self._epoch)

    def _after(self, child: Child) -> VersionState:
        """Returns the state after a life that ended by itself."""
        model, version = self._ref.model, self._ref.version
        if not child.given_up:
            return VersionState(model, version, LOADING, f"the worker {child.ending} in life {child.life}")
        again = f"'gnomon shadow {model} {version} --off' and the same without --off try again"
        reason = f"given up after {child.young} short lives, the last of which {child.ending}: {again}"
        return VersionState(model, version, FAILED, reason)

    def _listen_for(self, seconds: float | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.get_running_loop().call_later(seconds, self._too_silent) if seconds else None

    def _too_silent(self) -> None:
        log.warning("%s was not heard for %g s and is killed", self.child.name, self._silence)
        self.child.restart()

    @property
    def _address(self) -> str:
        return str(self._folder / f"{self._epoch[:16]}.sock")
