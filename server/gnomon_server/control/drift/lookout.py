"""The lookout: keeps what was counted, and looks for drift whenever a window is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gnomon_protos import control_pb2
from gnomon_server.control.drift import reports
from gnomon_server.control.drift.findings import Judge, WindowFinding, sentence
from gnomon_server.control.drift.windows import Windows, merged, newest_over
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Store
from gnomon_server.errors import LoadError
from gnomon_server.models import profile
from gnomon_server.settings import DriftSettings, Settings
from gnomon_server.wire.plans import VersionRef

log = logging.getLogger(__name__)

UNCOUNTED: Final = "its window is 0 in the settings"
UNPROFILED: Final = "it was converted without a profile"
ALONE: Final = "it has no shadow, and 'unshadowed' is 0 in its drift settings"

Refs = Callable[[], Mapping[tuple[str, int], VersionRef]]


@dataclass
class _Watch:
    """What is known of the traffic of one primary."""

    version: int
    # Which judges by its profile; None where there is none, for a reason.
    judge: Judge | None
    reason: str
    # The newest window that was over at the last look.
    looked: int = -1
    # The newest first.
    findings: tuple[WindowFinding, ...] = ()

    @property
    def newest(self) -> WindowFinding | None:
        """The last window that was judged."""
        return self.findings[0] if self.findings else None


class Lookout:
    """Belongs to control's event loop; reads files and the store in threads."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        windows: Windows,
        routes: Callable[[], Mapping[str, Route]],
        refs: Refs,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._store = store
        self._windows = windows
        self._routes, self._refs = routes, refs
        self._clock = clock
        # By model, those whose traffic is counted.
        self._watches: dict[str, _Watch] = {}
        self._drift: dict[str, DriftSettings] = {}

    async def flush(self) -> None:
        """Stores what was counted; raises NotReady."""
        if rows := self._windows.news():
            await asyncio.to_thread(self._store.save_windows, self._windows.life, rows)
            self._windows.stored(rows)

    async def look(self) -> None:
        """Judges the windows that are over by now; raises NotReady where the store is away."""
        routes = {name: route for name, route in self._routes().items() if route.primary and self._of(name).window}
        self._watches = {
            name: watch
            for name, watch in self._watches.items()
            if name in routes and watch.version == routes[name].primary
        }
        for name, route in routes.items():
            if name not in self._watches and (ref := self._refs().get((name, route.primary))) is not None:
                judge, reason = await asyncio.to_thread(self._judge, name, Path(ref.folder))
                self._watches[name] = _Watch(route.primary, judge, reason)
            if name in self._watches:
                await self._look(name, self._watches[name])

    async def report(self, model: str, limit: int = 0) -> control_pb2.DriftReport:
        """Returns what is known of a model, of at most so many windows; 0: all. Raises NotReady."""
        route, drift = self._routes()[model], self._of(model)
        watch = self._watches.get(model, _Watch(route.primary, None, ""))
        reason = watch.reason
        if not drift.window:
            reason = UNCOUNTED
        elif not reason and not route.shadows and not drift.unshadowed:
            reason = ALONE
        waiting = 0
        if watch.judge is not None:
            windows = await asyncio.to_thread(self._store.windows, model, watch.version)
            waiting = watch.judge.waiting(merged(windows), watch.newest)
        return reports.report(model, watch.version, reason, drift.window, waiting, watch.findings[: limit or None])

    def sentence(self, model: str) -> str:
        """Returns which features of a model drift, and nothing where none does."""
        newest = self._watches[model].newest if model in self._watches else None
        return sentence(newest) if newest is not None and newest.alarms else ""

    @property
    def newest(self) -> Sequence[WindowFinding]:
        """The last window of each model that was judged."""
        return [watch.newest for _, watch in sorted(self._watches.items()) if watch.newest is not None]

    def _of(self, model: str) -> DriftSettings:
        # Asked every second of every model.
        if model not in self._drift:
            self._drift[model] = self._settings.model(model).drift
        return self._drift[model]

    async def _look(self, model: str, watch: _Watch) -> None:
        over = newest_over(self._of(model).window, self._clock())
        if watch.judge is None or over == watch.looked:
            return
        windows = await asyncio.to_thread(self._store.windows, model, watch.version)
        findings = await asyncio.to_thread(watch.judge.findings, merged(windows), self._clock())
        watch.findings, watch.looked = tuple(reversed(findings)), over

    def _judge(self, model: str, folder: Path) -> tuple[Judge | None, str]:
        try:
            known = profile.read(folder)
        except LoadError as error:
            log.warning("model '%s': no drift is seen: %s", model, error)
            return None, str(error)
        return (Judge(known, self._of(model)), "") if known is not None else (None, UNPROFILED)
