"""False and true alarms of the drift tests on real flights, beside fixed thresholds, and what the counting costs.

    python benchmarks/drift.py [--windows 400] [--seed 1]

The reference is the first quarter of 2013 in the flights of the demo, in windows of a week. Three kinds of windows are
judged: rows drawn from the reference, which have not drifted; weeks of it, each left out of the reference that judges
it; and weeks of the summer, which have another weather and another schedule.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_converters import profiling
from gnomon_converters.frameworks import Original
from gnomon_protos.profile_pb2 import Profile
from gnomon_protos.profiles import Counter, columns
from gnomon_protos.tensors import Array
from gnomon_server.cli.demo import flights
from gnomon_server.statistics.drift import judge, usual

WEEK: Final = 7 * 86400.0
# Rows of a window, and batches in which a shadow worker counts.
ROWS: Final = (500, 2000, 6000)
BATCHES: Final = (1, 32, 256)
# By which others alarm, whatever the number of rows: the population stability index, and the distance of gnomon.
FIXED_INDEX: Final = 0.1
FIXED_DISTANCE: Final = 0.1
TOLERANCE: Final = 0.05
ALPHA: Final = 1e-4

Inputs = dict[str, Array]


@dataclass(frozen=True)
class Data:
    """Rows by input, and the week of the year of each."""

    inputs: Inputs
    weeks: NDArray[np.int64]

    def only(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Data:
        """Returns some of the rows."""
        return Data({name: array[keep] for name, array in self.inputs.items()}, self.weeks[keep])

    def __len__(self) -> int:
        return len(self.weeks)


@dataclass(frozen=True)
class Alarms:
    """Features that alarm, of those that were looked at."""

    looked: int = 0
    # By gnomon's tests: beyond what the reference shows itself, and beyond the tolerance.
    alarmed: int = 0
    changed: int = 0
    # By a fixed threshold.
    index: int = 0
    distance: int = 0

    def plus(self, other: Alarms) -> Alarms:
        """Returns the sum."""
        return Alarms(*(a + b for a, b in zip(self.shares, other.shares, strict=True)))

    @property
    def shares(self) -> tuple[int, ...]:
        """The counts in their order."""
        return (self.looked, self.alarmed, self.changed, self.index, self.distance)


def load() -> Data:
    """Returns the flights of the year with their weather."""
    table = flights.load()
    inputs: Inputs = {
        name: table.features[[name]].fillna("").to_numpy(object)
        if name in flights.TEXT
        else table.features[[name]].to_numpy(np.float32)
        for name in flights.FEATURES
        # What says the date is another one in any other week.
        if name not in ("month", "day")
    }
    # The rows are in the order of time, about as many each day.
    weeks = np.arange(len(table.late)) * 52 // len(table.late)
    return Data(inputs, weeks)


def profiled(data: Data) -> Profile:
    """Returns the profile of a reference, with its weeks."""
    made = profiling.profile(data.inputs, Original((), {}), {}, data.weeks.astype(np.float64) * WEEK, WEEK)
    assert made is not None
    return made


def judged(made: Profile, window: Data, tolerance: float = TOLERANCE, alpha: float = ALPHA) -> Alarms:
    """Returns the alarms of one window."""
    counter = Counter(made)
    tables = {name: columns(array) for name, array in window.inputs.items()}
    total = Alarms()
    for feature, counts in zip(made.features, counter.split(counter.count(tables, {}, len(window))), strict=True):
        chunks = [(chunk.counts, chunk.novel) for chunk in feature.chunks]
        found = judge(counts.tolist(), usual(feature.counts, feature.unseen, chunks), alpha, tolerance)
        index = _index(counts[:-2].astype(float), np.array(feature.counts[:-2], float))
        alarms = (bool(found.alarms), bool(found.changed), index > FIXED_INDEX, found.distance > FIXED_DISTANCE)
        total = total.plus(Alarms(1, *map(int, alarms)))
    return total


def _index(window: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Returns the population stability index, empty bins as 1 in 10,000."""
    p, q = (np.maximum(side / max(side.sum(), 1), 1e-4) for side in (window, reference))
    return float(np.sum((p - q) * np.log(p / q)))


def drawn(reference: Data, rows: int, windows: int, random: np.random.Generator) -> Iterator[Data]:
    """Yields windows of rows of the reference."""
    for _ in range(windows):
        yield reference.only(random.integers(0, len(reference), rows))


def show(name: str, found: Alarms) -> None:
    """Prints a line of the table."""
    shares = (f"{100 * count / found.looked:12.2f} %" for count in found.shares[1:])
    print(f"{name:<46}{found.looked:>9,}{''.join(shares)}")


def costs(made: Profile, data: Data) -> None:
    """Prints what counting costs a request of one row."""
    counter = Counter(made)
    for batch in BATCHES:
        tables = {name: array[:batch] for name, array in data.inputs.items()}
        repeat = max(1, 2000 // batch)
        count = partial(counter.count, tables, {}, batch)
        seconds = min(timeit.repeat(count, number=repeat, repeat=5)) / repeat
        print(f"counting, {len(made.features)} features, batches of {batch:>3}: {1e6 * seconds / batch:8.1f} us a row")


def main(words: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(words)
    random = np.random.default_rng(arguments.seed)
    data = load()
    reference, summer = data.only(data.weeks < 13), data.only((data.weeks >= 22) & (data.weeks < 35))
    made = profiled(reference)
    costs(made, reference)
    print(f"\nfeatures that alarm, at a level of {ALPHA:g} a test and a tolerance of {TOLERANCE:g}")
    print(f"{'windows':<46}{'features':>9}{'alarms':>14}{'changed':>14}{'index > .1':>14}{'dist. > .1':>14}")
    for rows in ROWS:
        show(f"{rows:,} rows of the reference", _sum(made, drawn(reference, rows, arguments.windows, random)))
    left_out = Alarms()
    for week in range(13):
        rest = profiled(reference.only(reference.weeks != week))
        left_out = left_out.plus(judged(rest, reference.only(reference.weeks == week)))
    show("weeks of the reference, each left out of it", left_out)
    show("weeks of the summer", _sum(made, (summer.only(summer.weeks == week) for week in range(22, 35))))
    exact = 0.01
    null = Alarms()
    for window in drawn(reference, 2000, arguments.windows, random):
        null = null.plus(judged(made, window, tolerance=0.0, alpha=exact))
    share = f"{100 * null.changed / null.looked:.2f} %"
    print(f"\nwithout a tolerance, at a level of 1 %, 2,000 rows of the reference: {share} of features have changed")
    return 0


def _sum(made: Profile, windows: Iterator[Data]) -> Alarms:
    total = Alarms()
    for window in windows:
        total = total.plus(judged(made, window))
    return total


if __name__ == "__main__":
    raise SystemExit(main())
