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
from gnomon_server.models.profile import Known
from gnomon_server.settings import Settings
from gnomon_server.wire.plans import VersionRef

log = logging.getLogger(__name__)

ALONE: Final = "it has no shadow, and 'unshadowed' is 0 in its drift settings"

Refs = Callable[[], Mapping[tuple[str, int], VersionRef]]


@dataclass(frozen=True)
class Seen:
    """What is known of the drift of one model's traffic."""

    version: int
    # The newest first.
    findings: tuple[WindowFinding, ...] = ()
    # Why there is no profile to judge by; empty where there is one.
    reason: str = ""

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
        self._seen: dict[str, Seen] = {}
        # By model: for which version, and until which window, it was looked.
        self._looked: dict[str, tuple[int, int]] = {}
        self._judges: dict[str, tuple[int, Judge | None, str]] = {}

    async def flush(self) -> None:
        """Stores what was counted; raises NotReady."""
        if rows := self._windows.news():
            await asyncio.to_thread(self._store.save_windows, self._windows.life, rows)
            self._windows.stored(rows)

    async def look(self) -> None:
        """Judges the windows that are over by now; raises NotReady where the store is away."""
        routes = self._routes()
        for model in self._seen.keys() - routes.keys():
            del self._seen[model]
        for route in list(routes.values()):
            seconds = self._settings.model(route.model).drift.window
            if not seconds or not route.primary:
                self._seen.pop(route.model, None)
                continue
            looked = (route.primary, newest_over(seconds, self._clock()))
            if self._looked.get(route.model) != looked:
                await self._look(route.model, route.primary)
                self._looked[route.model] = looked

    async def waiting(self, model: str) -> int:
        """Returns how many rows of a model wait to be judged; raises NotReady."""
        version, judge, _ = self._judges.get(model, (0, None, ""))
        if judge is None:
            return 0
        windows = merged(await asyncio.to_thread(self._store.windows, model, version))
        return judge.waiting(windows, self._seen[model].newest if model in self._seen else None)

    async def report(self, model: str, limit: int = 0) -> control_pb2.DriftReport:
        """Returns what is known of a model, of at most so many windows; 0: all. Raises NotReady."""
        route, seconds = self._routes()[model], self._settings.model(model).drift.window
        seen = self._seen.get(model, Seen(route.primary, reason="" if seconds else "its window is 0 in the settings"))
        alone = not route.shadows and not self._settings.model(model).drift.unshadowed
        reason = seen.reason or (ALONE if alone else "")
        waiting = await self.waiting(model)
        return reports.report(model, seen.version, reason, seconds, waiting, seen.findings[: limit or None])

    def sentence(self, model: str) -> str:
        """Returns which features of a model drift, and nothing where none does."""
        seen = self._seen.get(model)
        return sentence(seen.newest) if seen is not None and seen.newest is not None and seen.newest.alarms else ""

    @property
    def newest(self) -> Sequence[WindowFinding]:
        """The last window of each model that was judged."""
        return [seen.newest for _, seen in sorted(self._seen.items()) if seen.newest is not None]

    async def _look(self, model: str, version: int) -> None:
        ref = self._refs().get((model, version))
        if ref is None:
            return
        known = self._judges.get(model)
        if known is None or known[0] != version:
            known = self._judges[model] = (version, *await asyncio.to_thread(self._judge, model, Path(ref.folder)))
        _, judge, reason = known
        if judge is None:
            self._seen[model] = Seen(version, reason=reason)
            return
        findings = await asyncio.to_thread(self._judged, judge, model, version)
        self._seen[model] = Seen(version, tuple(reversed(findings)))

    def _judge(self, model: str, folder: Path) -> tuple[Judge | None, str]:
        try:
            known: Known | None = profile.read(folder)
        except LoadError as error:
            log.warning("model '%s': no drift is seen: %s", model, error)
            return None, str(error)
        if known is None:
            return None, "it was converted without a profile"
        return Judge(known, self._settings.model(model).drift), ""

    def _judged(self, judge: Judge, model: str, version: int) -> list[WindowFinding]:
        return judge.findings(merged(self._store.windows(model, version)), self._clock())
