"""Results: what each measurement found, as a file of JSON lines, and the figures that several rounds agree on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from plan import Load


@dataclass(frozen=True)
class Measurement:
    """One server under one load in one round."""

    suite: str
    model: str
    contender: str
    load: Load
    round: int
    per_second: float
    # Microseconds.
    p50: float
    p99: float
    # Microseconds of CPU for one request, of every process that is needed to answer.
    cpu: float
    # What other programs used of the machine.
    foreign: float
    # Bytes of the processes that answer, at the end, and the bytes that one idle connection added.
    memory: int = 0
    idle_bytes: float = 0.0
    # Requests offered in a second; 0 where as many are sent as are answered.
    rate: float = 0.0
    # Microseconds of CPU of the shadow worker for one compared request.
    shadow_cpu: float = 0.0
    # Of the requests that were selected for the shadow.
    compared: float = 0.0
    dropped: float = 0.0
    # Of one core, and how late requests with a rate were sent: 99th percentile, microseconds.
    generator: float = 0.0
    late: float = 0.0


Key = tuple[str, str, str, Load]


@dataclass(frozen=True)
class Figure:
    """One quantity over the rounds."""

    median: float
    low: float
    high: float

    def __format__(self, form: str) -> str:
        """Returns the median, then lowest and highest where there are several."""
        middle = format(self.median, form)
        return middle if self.low == self.high else f"{middle} ({self.low:{form}} to {self.high:{form}})"


class Results:
    """Measurements by suite, model, contender and load."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self._by_key: dict[Key, list[Measurement]] = defaultdict(list)
        for one in measurements:
            self._by_key[one.suite, one.model, one.contender, one.load].append(one)

    def all(self) -> list[Measurement]:
        """Returns all measurements."""
        return [one for several in self._by_key.values() for one in several]

    def suites(self) -> list[str]:
        """Returns the suites that were run, in the order of the file."""
        return _unique(key[0] for key in self._by_key)

    def models(self, suite: str) -> list[str]:
        """Returns the models that a suite was run with."""
        return _unique(key[1] for key in self._by_key if key[0] == suite)

    def contenders(self, suite: str, model: str) -> list[str]:
        """Returns who took part."""
        return _unique(key[2] for key in self._by_key if key[:2] == (suite, model))

    def loads(self, suite: str, model: str, contender: str) -> list[Load]:
        """Returns the loads that one was put under."""
        return sorted(
            (key[3] for key in self._by_key if key[:3] == (suite, model, contender)),
            key=lambda load: (load.in_flight, load.idle),
        )

    def figure(self, key: Key, of: Callable[[Measurement], float]) -> Figure | None:
        """Returns a quantity over the rounds; None where it was not measured."""
        values = [of(one) for one in self._by_key.get(key, ())]
        return Figure(median(values), min(values), max(values)) if values else None

    def ratio(self, one: Key, other: Key, of: Callable[[Measurement], float]) -> Figure | None:
        """Returns by how much the median of one exceeds that of another, with the ratios of the rounds as spread."""
        above, below = self._rounds(one, of), self._rounds(other, of)
        both = [above[number] / below[number] for number in above.keys() & below.keys() if below[number]]
        return Figure(median(both), min(both), max(both)) if both else None

    def _rounds(self, key: Key, of: Callable[[Measurement], float]) -> dict[int, float]:
        return {one.round: of(one) for one in self._by_key.get(key, ())}


def append(file: Path, measurement: Measurement) -> None:
    """Adds a line to a file."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(measurement)) + "\n")


def read(files: Sequence[Path]) -> Results:
    """Returns what files hold; raises ValueError naming the line that is not a measurement."""
    found = []
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                values = json.loads(line)
                found.append(Measurement(**{**values, "load": Load(**values["load"])}))
            except (TypeError, KeyError, json.JSONDecodeError) as error:
                raise ValueError(f"{file}:{number}: expected a measurement: {error}") from None
    return Results(found)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
