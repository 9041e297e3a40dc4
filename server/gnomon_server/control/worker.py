"""A shadow worker as control sees it: one version, over all the lives of its process."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final, Protocol

import msgspec

from gnomon_server.config import Settings
from gnomon_server.control.child import Child
from gnomon_server.models.lifecycle import FAILED, LOADING, READY
from gnomon_server.wire.messages import (
    FromChild,
    ShadowFeed,
    VersionRef,
    VersionState,
    WorkerAck,
    WorkerPlan,
    WorkerReport,
)

MODULE: Final = "gnomon_server.shadow"


class Owner(Protocol):
    """What a worker tells its fleet."""

    def worker_heard(self, message: FromChild) -> None:
        """Takes a message, after the worker has taken its own part of it."""

    def worker_ended(self, epoch: str) -> None:
        """Takes that a life is over, after its last message."""


class Worker:
    """Knows the state of its version and where frontends find it; each life is an epoch of its own."""

    def __init__(self, ref: VersionRef, folder: Path, settings: Settings, owner: Owner) -> None:
        self._ref = ref
        self._folder = folder
        self._owner = owner
        self._epoch = ""
        self.state = VersionState(ref.model, ref.version, LOADING)
        self.queue_depth = 0
        # Where to mirror to: of the newest life that was ready, kept while the next one starts, so that what is
        # selected meanwhile is counted as dropped.
        self.feed: ShadowFeed | None = None
        name = f"shadow {ref.model}/{ref.version}"
        self.child = Child(name, MODULE, msgspec.json.encode(settings).decode(), self._born, self._heard, self._died)

    def _born(self, child: Child) -> None:
        self._epoch = uuid.uuid4().hex
        child.send(WorkerPlan(self._ref, self._address, self._epoch))

    def _heard(self, _: Child, message: FromChild) -> None:
        if isinstance(message, WorkerAck):
            self.state = message.version
            if self.state.state == READY:
                self.feed = ShadowFeed(self._ref.model, self._ref.version, 1.0, self._address, self._epoch)
        elif isinstance(message, WorkerReport):
            self.queue_depth = message.queue_depth
        self._owner.worker_heard(message)

    def _died(self, _: Child) -> None:
        if self.state.state != FAILED:
            self.state = VersionState(self._ref.model, self._ref.version, LOADING)
        self.queue_depth = 0
        self._owner.worker_ended(self._epoch)

    @property
    def _address(self) -> str:
        return str(self._folder / f"{self._epoch[:16]}.sock")
