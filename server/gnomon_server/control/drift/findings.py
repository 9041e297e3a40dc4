"""The findings: which features of a model have drifted, window by window; pure, told the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Final

from gnomon_protos.profile_pb2 import Feature
from gnomon_protos.profiles import Counter, Counts
from gnomon_server.control.drift.windows import over
from gnomon_server.models.profile import Known
from gnomon_server.settings import DriftSettings
from gnomon_server.statistics.drift import Drift, Usual, judge, level, usual
from gnomon_server.wire.drift import WindowKey

# Rows below which the tests alarm more often than they should: such a window is judged together with the next one.
ROWS: Final = 200
# Features that a sentence names.
SHOWN: Final = 3


@dataclass(frozen=True)
class FeatureFinding:
    """What a window shows of one feature."""

    name: str
    output: bool
    # Share of the reference's rows in which it is missing, and greatest effect among the reference's own windows.
    missing_reference: float
    usual_effect: float
    drift: Drift


@dataclass(frozen=True)
class WindowFinding:
    """What is found in one window, or in several that were too small by themselves."""

    model: str
    version: int
    # UTC.
    since: datetime
    until: datetime
    rows: int
    features: tuple[FeatureFinding, ...]

    @property
    def alarms(self) -> tuple[FeatureFinding, ...]:
        """The features that drift beyond what the reference itself shows, the greatest distance first."""
        return tuple(sorted((f for f in self.features if f.drift.alarms), key=lambda f: -f.drift.distance))


class Judge:
    """Judges windows by one profile."""

    def __init__(self, known: Known, settings: DriftSettings) -> None:
        self.known = known
        self._settings = settings
        self._counter = Counter(known.profile)
        self._usual = [_usual(feature) for feature in known.profile.features]

    def findings(self, windows: Mapping[WindowKey, Counts], now: float) -> list[WindowFinding]:
        """Returns what is found in the windows of one version that are over, the oldest first.

        When a finding is made depends on how many rows there are and not on what they hold, so that each test has the
        false alarms that it says.
        """
        found: list[WindowFinding] = []
        waiting: list[WindowKey] = []
        for key in sorted(windows, key=lambda key: key.number):
            if not over(key.number, key.seconds, now) or not self._own(key):
                continue
            waiting.append(key)
            counts = sum((windows[one] for one in waiting[1:]), windows[waiting[0]])
            if self._rows(counts) >= ROWS:
                found.append(self._judged(waiting, counts))
                waiting = []
        return found

    def waiting(self, windows: Mapping[WindowKey, Counts], found: WindowFinding | None) -> int:
        """Returns how many rows are in windows after the newest one that was judged."""
        judged = found.until.timestamp() if found is not None else -inf
        return sum(self._rows(counts) for key, counts in windows.items() if self._own(key) and key.since >= judged)

    def _own(self, key: WindowKey) -> bool:
        return (key.digest, key.seconds) == (self.known.digest, self._settings.window)

    def _rows(self, counts: Counts) -> int:
        return max((int(part.sum()) for part in self._counter.split(counts)), default=0)

    def _judged(self, keys: Sequence[WindowKey], counts: Counts) -> WindowFinding:
        features = self.known.profile.features
        alpha = level(self._settings.false_alarms, len(features), keys[0].seconds)
        tolerance = self._settings.tolerance
        return WindowFinding(
            model=keys[0].model,
            version=keys[0].version,
            since=datetime.fromtimestamp(keys[0].since, UTC),
            until=datetime.fromtimestamp(keys[-1].until, UTC),
            rows=self._rows(counts),
            features=tuple(
                FeatureFinding(
                    name=feature.name,
                    output=feature.output,
                    missing_reference=known.share_missing,
                    usual_effect=known.effect,
                    drift=judge(part.tolist(), known, alpha, tolerance),
                )
                for feature, known, part in zip(features, self._usual, self._counter.split(counts), strict=True)
                if part.sum() >= ROWS
            ),
        )


def sentence(finding: WindowFinding) -> str:
    """Returns which features of a window alarm."""
    alarms = finding.alarms
    shown = ", ".join(f"{one.name} ({_tests(one.drift)})" for one in alarms[:SHOWN])
    more = f" and {len(alarms) - SHOWN} more" if len(alarms) > SHOWN else ""
    when = f"in the {finding.rows:,} rows from {finding.since:%Y-%m-%d %H:%M:%S} to {finding.until:%Y-%m-%d %H:%M:%S}"
    return f"{len(alarms)} of {len(finding.features)} features and outputs drift {when}: {shown}{more}"


def _tests(drift: Drift) -> str:
    words = {
        "shape": f"distance {drift.distance:.2f}",
        "missing": f"missing {100 * drift.missing:.1f} %",
        "novel": f"novel {100 * drift.novel:.1f} %",
    }
    return ", ".join(words[test] for test in drift.alarms)


def _usual(feature: Feature) -> Usual:
    return usual(feature.counts, feature.unseen, [(chunk.counts, chunk.novel) for chunk in feature.chunks])
