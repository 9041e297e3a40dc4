"""A fleet and its operations over children without models, for tests of control."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import child_program
import pytest

from gnomon_server.control import frontends, worker
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.operations import Operations
from gnomon_server.control.routes import Route
from gnomon_server.control.store import AuditEntry, AuditRecord, Shared
from gnomon_server.control.store.sqlite import SqliteStore
from gnomon_server.errors import GnomonError
from gnomon_server.settings import Policy, Settings
from gnomon_server.wire.plans import VersionRef


class FailingStore(SqliteStore):
    """A store whose changes fail while `error` is set."""

    error: GnomonError | None = None

    def change(self, after: Route, entry: AuditEntry) -> AuditRecord:
        if self.error is not None:
            raise self.error
        return super().change(after, entry)


class SharedStore(FailingStore):
    """A store that another server changes too, as a test says; it decides unless this one leads."""

    shared = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.elsewhere: dict[str, Route] = {}
        self.leads = False

    def sync(self) -> Shared:
        if self.error is not None:
            raise self.error
        return Shared(self.elsewhere, self.leads)


@dataclass
class Shelf:
    """A source that has what a test put on it."""

    here: set[tuple[str, int]] = field(default_factory=set)
    broken: set[tuple[str, int]] = field(default_factory=set)
    # With other tensors.
    other: set[tuple[str, int]] = field(default_factory=set)
    error: GnomonError | None = None

    def versions(self) -> frozenset[VersionRef]:
        if self.error is not None:
            raise self.error
        return frozenset(VersionRef(*key, f"/{self._kind(key)}/{key[1]}") for key in self.here)

    def _kind(self, key: tuple[str, int]) -> str:
        return "broken" if key in self.broken else "other" if key in self.other else "fine"


@dataclass
class Rig:
    """What control owns, without its servers."""

    shelf: Shelf
    store: FailingStore
    ledger: Ledger
    fleet: Fleet
    operations: Operations

    async def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        """Lets the fleet go on until a condition holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Waits until every frontend has followed and every shadow of a whole version is ready."""
        routes = self.operations.routes.values()
        keys = [(route.model, version) for route in routes for version in route.shadows]
        # Together: a shadow that becomes ready is a new plan, which the frontends have yet to follow.
        await self.until(
            lambda: self.fleet.ready and all(self.fleet.state(*key).state in ("ready", "failed") for key in keys)
        )


def use_child_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has control start the program without models as frontend and as shadow worker."""
    monkeypatch.setenv("PYTHONPATH", str(Path(child_program.__file__).parent))
    monkeypatch.delenv("GNOMON_TEST_CHILD", raising=False)
    monkeypatch.setattr(frontends, "MODULE", child_program.NAME)
    monkeypatch.setattr(worker, "MODULE", child_program.NAME)


@asynccontextmanager
async def running(
    folder: Path,
    workers: int = 1,
    here: set[tuple[str, int]] | None = None,
    kind: type[FailingStore] = FailingStore,
    models: dict[str, dict[str, Any]] | None = None,
) -> AsyncIterator[Rig]:
    """Runs a fleet on these versions, after the first look at them."""
    settings = Settings(
        workers=workers,
        grace=5.0,
        policy=Policy(tolerance=0.5, min_requests=10, min_duration=0, block=1),
        models=models or {},
    )
    shelf, store, ledger = Shelf(here if here is not None else {("m", 1)}), kind(folder), Ledger()
    fleet = Fleet(settings, ledger, lambda _, __: None)
    operations = Operations(settings, store, ledger, fleet, shelf)
    fleet.start()
    try:
        await operations.look()
        rig = Rig(shelf, store, ledger, fleet, operations)
        await rig.settled()
        yield rig
    finally:
        await fleet.stop(5.0)
        store.close()
