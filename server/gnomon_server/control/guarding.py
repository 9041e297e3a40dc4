"""Guarding: looks at the primaries and the machine, has the mirror thinned, and remembers when."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from typing import Final, Protocol

from gnomon_server.control.guard import Guard, Reading
from gnomon_server.control.pressure import Pressure
from gnomon_server.settings import GuardSettings
from gnomon_server.wire.counts import HistogramCounts
from gnomon_server.wire.histogram import DURATION_BOUNDS, merge
from gnomon_server.wire.messages import FrontendReport

# Requests between two looks of which fewer say nothing about the slowest hundredth.
ENOUGH: Final = 100
# Thinnings that are remembered, of all models.
REMEMBERED: Final = 100
_TAIL: Final = 0.99


@dataclass(frozen=True)
class Thinning:
    """A time in which a model's mirroring was thinned."""

    model: str
    since: datetime
    # None: it still is.
    until: datetime | None
    # Smallest factor so far.
    factor: float
    cause: str


class Fleet(Protocol):
    """What guarding needs of the fleet."""

    @property
    def counts(self) -> FrontendReport:
        """What all frontends have counted."""

    def thin(self, factors: Mapping[str, float]) -> None:
        """Mirrors these parts of each shadow's share, by model."""


class Guarding:
    """Belongs to control's event loop; `look` is called once a second or so."""

    def __init__(
        self,
        settings: GuardSettings,
        fleet: Fleet,
        pressure: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._pressure = pressure if pressure is not None else Pressure().read
        self._clock = clock
        self._guards: dict[str, Guard] = {}
        # By model: when it was looked at last, and the seconds from receipt to answer of its requests until then.
        self._seen: dict[str, tuple[float, HistogramCounts]] = {}
        self._ended: deque[Thinning] = deque(maxlen=REMEMBERED)
        self._lasting: dict[str, Thinning] = {}
        # What is stored of them.
        self._told: list[Thinning] = []

    async def look(self) -> None:
        """Reads, decides, and has the fleet follow."""
        counts, now = self._fleet.counts, self._clock()
        common = tuple(self._machine())
        for model, durations in _durations(counts).items():
            before = self._guards.get(model, Guard())
            readings = (*common, *self._model(model, durations, now))
            self._guards[model] = before.after(readings, now, self._settings.recovery)
            self._remember(model, self._guards[model])
        self._fleet.thin({model: guard.factor for model, guard in self._guards.items() if guard.halvings})

    def restore(self, known: Iterable[Thinning]) -> None:
        """Takes what an earlier server remembered."""
        self._told = [*known]
        self._ended.extend(self._told)

    def news(self) -> list[Thinning]:
        """Returns all that is to outlive the server, or nothing if that was told; what lasts ends with the server."""
        now = datetime.now(UTC)
        found = [*self._ended, *(replace(one, until=now) for one in self._lasting.values())]
        return found if found != self._told else []

    def told(self, news: Sequence[Thinning]) -> None:
        """Takes that news are stored."""
        self._told = [*news]

    def factor(self, model: str) -> float:
        """Returns what the share of each of a model's shadows is multiplied with now, in (0, 1]."""
        return self._guards.get(model, Guard()).factor

    def thinnings(self, model: str) -> list[Thinning]:
        """Returns when a model's mirroring was thinned, newest first."""
        known = (*self._ended, *self._lasting.values())
        return sorted((one for one in known if one.model == model), key=lambda one: one.since, reverse=True)

    def _machine(self) -> Iterator[Reading]:
        if self._settings.pressure and (share := self._pressure()) is not None:
            yield Reading("pressure", share, share, self._settings.pressure)

    def _model(self, model: str, durations: HistogramCounts, now: float) -> Iterator[Reading]:
        last, self._seen[model] = self._seen.get(model), (now, durations)
        if last is None or now <= last[0]:
            return
        if self._settings.queue:
            # Little's law: the mean number in flight is the time that requests spent, by the time that went by.
            in_flight = (durations.total - last[1].total) / (now - last[0])
            yield Reading("queue", in_flight, in_flight, self._settings.queue)
        recent = [new - old for new, old in zip(durations.counts, last[1].counts, strict=True)]
        if self._settings.latency and sum(recent) >= ENOUGH:
            yield Reading("latency", *tail(recent), self._settings.latency)

    def _remember(self, model: str, guard: Guard) -> None:
        lasting = self._lasting.get(model)
        if guard.halvings and lasting is None:
            self._lasting[model] = Thinning(model, datetime.now(UTC), None, guard.factor, guard.cause)
        elif guard.halvings and lasting is not None:
            self._lasting[model] = replace(lasting, factor=min(lasting.factor, guard.factor))
        elif lasting is not None:
            self._ended.append(replace(self._lasting.pop(model), until=datetime.now(UTC)))


def tail(counts: Iterable[int]) -> tuple[float, float]:
    """Returns between which bounds of DURATION_BOUNDS the 0.99-quantile of a histogram's counts lies, in seconds."""
    counts = tuple(counts)
    rank, seen, low = _TAIL * sum(counts), 0, 0.0
    for bound, count in zip((*DURATION_BOUNDS, inf), counts, strict=True):
        seen += count
        if seen >= rank:
            return low, bound
        low = bound
    return low, inf


def _durations(counts: FrontendReport) -> dict[str, HistogramCounts]:
    """Returns the seconds from receipt to answer of each model's requests."""
    models = {count.model for count in counts.inferences}
    return {
        model: merge((c.durations for c in counts.inferences if c.model == model), DURATION_BOUNDS) for model in models
    }
