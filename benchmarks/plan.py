"""The plan: which contenders meet which load, suite by suite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import contenders as c
from contenders import Contender

# Share of the capacity that runs with a fixed rate offer.
PACE: Final = 0.4
ACTIVE: Final = 100
CONNECTED: Final = 5000


@dataclass(frozen=True)
class Load:
    """How a server is called."""

    connections: int
    # Calls in flight on each; 0 where a pace is kept.
    streams: int
    # Share of the capacity that is offered at an even pace; 0 is as much as is answered.
    pace: float = 0.0
    # Connections beside these, which call nothing.
    idle: int = 0

    @property
    def in_flight(self) -> int:
        """Calls in flight at a time."""
        return self.connections * self.streams

    def __str__(self) -> str:
        if self.pace:
            return f"{self.connections}, {self.pace:.0%} of capacity"
        return f"{self.connections} x {self.streams}" + (f", {self.idle:,} idle" if self.idle else "")


@dataclass(frozen=True)
class Task:
    """One server under some loads, one after the other."""

    suite: str
    model: str
    contender: Contender
    loads: tuple[Load, ...]


@dataclass(frozen=True)
class Suite:
    """A question: which of these is the fastest."""

    about: str
    contenders: tuple[Contender, ...]
    loads: tuple[Load, ...]
    # Empty is all.
    models: tuple[str, ...] = ()
    # Whether servers of others, and onnxruntime by itself, take part.
    peers: bool = False


CLOSED: Final = (Load(1, 1), Load(1, 8), Load(4, 8), Load(8, 8))
PACED: Final = (Load(8, 0, pace=PACE),)
SUITES: Final[Mapping[str, Suite]] = {
    "closed": Suite(
        "a fixed number of requests in flight: who answers how many",
        (c.THREADS, c.ASYNCIO, c.GNOMON, c.GRPCIO, c.EQUAL, c.HEAVY),
        CLOSED,
        peers=True,
    ),
    "paced": Suite(
        "a fixed rate: what mirroring everything does to the primary's latency",
        (c.GNOMON, c.EQUAL, c.HEAVY),
        PACED,
    ),
    "telemetry": Suite("metrics and 1 % traces exported, or nothing", (c.GNOMON, c.SILENT), CLOSED[1:], ("logreg",)),
    "frontends": Suite(
        "two frontends or one, on cores that the generator shares",
        (c.ONE, c.TWO),
        CLOSED[3:],
        ("logreg", "transformer"),
    ),
    "connections": Suite(
        "many connections, of which few are active",
        (c.GNOMON,),
        (Load(ACTIVE, 1), Load(ACTIVE, 1, idle=CONNECTED - ACTIVE)),
        ("logreg",),
    ),
}


def tasks(suites: Sequence[str], models: Sequence[str], peers: Sequence[Contender]) -> list[Task]:
    """Returns what one round does, in its order."""
    return [
        Task(suite, model, contender, SUITES[suite].loads)
        for suite in suites
        for model in SUITES[suite].models or models
        if model in models
        for contender in (*SUITES[suite].contenders, *(peers if SUITES[suite].peers else ()))
    ]


def rounds(plan: Sequence[Task], numbers: Iterable[int]) -> Iterator[tuple[int, Task]]:
    """Yields every task of every round, in an order that turns round each time."""
    for number in numbers:
        for task in plan if number % 2 == 0 else plan[::-1]:
            yield number, task
