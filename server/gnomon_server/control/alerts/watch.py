"""The watch: which alerts fire, and since when; pure, told the time.

To add an alert, write a function that gives those that fire and name it in CONDITIONS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from gnomon_protos import control_pb2
from gnomon_server.control.drift.findings import WindowFinding, sentence
from gnomon_server.control.verdict import KEEP_WATCHING
from gnomon_server.models.lifecycle import READY
from gnomon_server.settings import AlertSettings

Severity = Literal["info", "warning", "critical"]
# Seconds for which a switch back counts as news.
NEWS_SECONDS: Final = 300.0
# Selected requests below which a share of dropped ones says nothing.
FEWEST_SELECTED: Final = 100


@dataclass(frozen=True)
class Alert:
    """Something that is so now."""

    name: str
    model: str
    version: int
    severity: Severity
    # One sentence without a full stop.
    summary: str = field(compare=False)


@dataclass(frozen=True)
class Firing:
    """An alert with its times."""

    alert: Alert
    since: datetime
    # When it ceased to be so; None while it is.
    until: datetime | None = None


@dataclass(frozen=True)
class Rollback:
    """A primary that gave way to the one before it, or a canary that was taken back."""

    model: str
    version: int
    replaced: int
    time: datetime


@dataclass(frozen=True)
class Stuck:
    """A delivery that should have gone on long ago."""

    model: str
    version: int
    # From 1.
    step: int
    reason: str


@dataclass(frozen=True)
class Look:
    """What there is to see at one moment."""

    # UTC.
    now: datetime
    # One for each shadow.
    reports: Sequence[control_pb2.Report]
    # The newest of each model.
    rollbacks: Sequence[Rollback]
    stuck: Sequence[Stuck] = ()
    # The last window of each model that was judged.
    windows: Sequence[WindowFinding] = ()


class Watch:
    """Compares each look with the one before."""

    def __init__(self, settings: AlertSettings) -> None:
        self.settings = settings
        self._firing: dict[Alert, Firing] = {}
        self._unready_since: dict[tuple[str, int], datetime] = {}
        self._counts: dict[tuple[str, int, int], deque[tuple[datetime, int, int]]] = {}

    @property
    def firing(self) -> list[Firing]:
        """Returns what is so since the last look."""
        return list(self._firing.values())

    def look(self, look: Look) -> list[Firing]:
        """Returns what began and what ended since the look before."""
        now = look.now
        self._remember(look)
        alerts = {alert: alert for condition in CONDITIONS for alert in condition(self, look)}
        ended = [Firing(known.alert, known.since, now) for key, known in self._firing.items() if key not in alerts]
        began = [Firing(alert, now) for alert in alerts if alert not in self._firing]
        # What goes on keeps its time, and says what is so now.
        self._firing = {
            alert: Firing(alert, self._firing[alert].since if alert in self._firing else now) for alert in alerts
        }
        return [*ended, *began]

    def unready(self, report: control_pb2.Report, now: datetime) -> float:
        """Returns for how many seconds a shadow has not been ready."""
        since = self._unready_since.get((report.model, report.shadow))
        return (now - since).total_seconds() if since else 0.0

    def recent(self, report: control_pb2.Report) -> tuple[int, int]:
        """Returns how many requests were selected for a shadow within the window, and how many of them dropped."""
        counts = self._counts[report.model, report.primary, report.shadow]
        (_, selected, dropped), (_, last_selected, last_dropped) = counts[0], counts[-1]
        return last_selected - selected, last_dropped - dropped

    def _remember(self, look: Look) -> None:
        unready = {(r.model, r.shadow) for r in look.reports if r.shadow_state != READY}
        self._unready_since = {key: self._unready_since.get(key, look.now) for key in unready}
        counts = {}
        for report in look.reports:
            key = (report.model, report.primary, report.shadow)
            known = self._counts.get(key, deque())
            known.append((look.now, report.outcomes.selected, report.outcomes.dropped))
            while (look.now - known[0][0]).total_seconds() > self.settings.window:
                known.popleft()
            counts[key] = known
        self._counts = counts


def _verdicts(_: Watch, look: Look) -> Iterator[Alert]:
    for report in look.reports:
        verdict = report.verdict
        if verdict.decision != KEEP_WATCHING:
            summary = f"{_pair(report)}: the verdict is '{verdict.decision}', {verdict.reason}"
            name = f"Gnomon{verdict.decision.title()}Verdict"
            yield Alert(name, report.model, report.shadow, "info", summary)


def _dead_shadows(watch: Watch, look: Look) -> Iterator[Alert]:
    for report in look.reports:
        seconds = watch.unready(report, look.now)
        if report.shadow_state == "failed" or seconds >= watch.settings.dead_after:
            why = f": {report.shadow_reason}" if report.shadow_reason else ""
            summary = f"{_pair(report)}: the shadow is {report.shadow_state}{why}"
            yield Alert("GnomonShadowDead", report.model, report.shadow, "warning", summary)


def _drops(watch: Watch, look: Look) -> Iterator[Alert]:
    for report in look.reports:
        selected, dropped = watch.recent(report)
        if selected >= FEWEST_SELECTED and dropped > watch.settings.drops * selected:
            share = f"{100 * dropped / selected:.1f} %"
            over = f"of the last {watch.settings.window:g} s"
            summary = f"{_pair(report)}: {share} of {selected:,} requests {over} were dropped"
            yield Alert("GnomonMirrorDrops", report.model, report.shadow, "warning", summary)


def _rollbacks(_: Watch, look: Look) -> Iterator[Alert]:
    for rollback in look.rollbacks:
        if (look.now - rollback.time).total_seconds() < NEWS_SECONDS:
            back = f"version {rollback.version} is back in the place of {rollback.replaced}"
            summary = f"model '{rollback.model}': {back}"
            yield Alert("GnomonRollback", rollback.model, rollback.replaced, "critical", summary)


def _stuck(_: Watch, look: Look) -> Iterator[Alert]:
    for one in look.stuck:
        summary = (
            f"model '{one.model}': the delivery of version {one.version} is stuck in step {one.step}: {one.reason}"
        )
        yield Alert("GnomonDeliveryStuck", one.model, one.version, "warning", summary)


def _drift(_: Watch, look: Look) -> Iterator[Alert]:
    for one in look.windows:
        if one.alarms:
            summary = f"model '{one.model}' version {one.version}: {sentence(one)}"
            yield Alert("GnomonDrift", one.model, one.version, "warning", summary)


CONDITIONS: Final[tuple[Callable[[Watch, Look], Iterator[Alert]], ...]] = (
    _verdicts,
    _dead_shadows,
    _drops,
    _rollbacks,
    _stuck,
    _drift,
)


def _pair(report: control_pb2.Report) -> str:
    return f"model '{report.model}' version {report.shadow} in the shadow of version {report.primary}"


def labels(alert: Alert) -> Mapping[str, str]:
    """Returns what identifies an alert."""
    return {
        "alertname": alert.name,
        "model": alert.model,
        "version": str(alert.version),
        "severity": alert.severity,
        "service": "gnomon",
    }
