from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import profiled
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiled import EVEN, SHIFTED, window

from gnomon_protos.profile_pb2 import Chunk, Feature, Values
from gnomon_server.control.drift.findings import Judge, WindowFinding, sentence
from gnomon_server.control.drift.lookout import Lookout
from gnomon_server.control.drift.windows import Windows, merged, newest_over, over
from gnomon_server.control.routes import Route
from gnomon_server.control.store.sqlite import SqliteStore
from gnomon_server.settings import DriftSettings, Settings
from gnomon_server.wire.drift import WindowCounts
from gnomon_server.wire.plans import VersionRef

SETTINGS = DriftSettings(window=60.0)
LATER = 1e6
# The store forgets what is long over by its own clock.
NEWEST = int(time.time() / 60)


def findings(*rows: WindowCounts, now: float = LATER, settings: DriftSettings = SETTINGS) -> list[WindowFinding]:
    return Judge(profiled.known(), settings).findings(merged(rows), now)


def alarms(found: WindowFinding) -> list[str]:
    return [one.name for one in found.alarms]


def test_a_window_like_the_reference_does_not_alarm_and_another_one_does() -> None:
    even, shifted = findings(window(0, EVEN), window(1, SHIFTED))
    assert (even.rows, alarms(even)) == (1000, [])
    assert (even.since.timestamp(), even.until.timestamp()) == (0, 60)
    assert alarms(shifted) == ["x[0]", "sum"]
    assert sentence(shifted) == (
        "2 of 3 features and outputs drift in the 1,000 rows from 1970-01-01 00:01:00 to 1970-01-01 00:02:00: "
        "x[0] (distance 0.45), sum (distance 0.45)"
    )


def test_a_sentence_names_a_few_features_and_counts_the_others() -> None:
    novel = (0, 0, 0, 1000, 0, 0, 1000, 0, 500, 500, 0)
    features = (
        *profiled.FEATURES,
        *(Feature(name=f"y{n}", tensor="y", values=Values(values=[0]), counts=[9999, 0, 0]) for n in range(3)),
    )
    found = Judge(profiled.known(features), SETTINGS).findings(merged([window(0, (*novel, *(0, 1000, 0) * 3))]), LATER)
    assert sentence(found[0]).endswith(
        ": sum (distance 0.56, missing 50.0 %), x[0] (novel 100.0 %), x[1] (novel 100.0 %) and 3 more"
    )


def test_a_window_that_is_not_over_is_not_judged() -> None:
    assert findings(window(0, SHIFTED), now=60.0 + 29.9) == []
    assert len(findings(window(0, SHIFTED), now=60.0 + 30.0)) == 1


def test_a_window_of_few_rows_is_judged_with_the_next_one() -> None:
    few = tuple(count // 10 for count in SHIFTED)
    assert findings(window(0, few)) == []
    (found,) = findings(window(0, few), window(3, few), window(4, few))
    assert (found.rows, found.since.timestamp(), found.until.timestamp()) == (200, 0, 240)


def test_an_output_that_few_asked_for_is_not_judged() -> None:
    (found,) = findings(window(0, (*SHIFTED[:7], 9, 0, 0, 0)))
    assert [one.name for one in found.features] == ["x[0]", "x[1]"]
    assert sentence(found).startswith("1 of 2 features and outputs drift in the 1,000 rows")


def test_counts_by_another_profile_or_of_another_length_are_left_out() -> None:
    assert findings(window(0, SHIFTED, digest="sha256:other"), window(0, SHIFTED, seconds=30.0)) == []


def test_of_several_shadows_the_one_that_saw_most_counts_and_servers_are_added() -> None:
    rows = [window(0, EVEN), window(0, EVEN), window(0, SHIFTED, shadow=3)]
    (found,) = findings(*rows)
    assert (found.rows, alarms(found)) == (2000, [])


def test_drift_within_that_of_the_reference_has_changed_and_does_not_alarm() -> None:
    feature = Feature()
    feature.CopyFrom(profiled.FEATURES[0])
    feature.chunks.extend([Chunk(counts=[4800, 200, 0, 0]), Chunk(counts=[200, 4800, 0, 0])])
    judge = Judge(profiled.known([feature]), SETTINGS)
    (found,) = judge.findings(merged([window(0, SHIFTED[:4])]), LATER)
    assert [one.drift.changed for one in found.features] == [("shape",)]
    assert alarms(found) == []


def test_a_window_is_over_once_nothing_more_can_come() -> None:
    assert [over(0, 60.0, now) for now in (89.9, 90.0)] == [False, True]
    # Of one that is short, the time for what is late is short too.
    assert [over(9, 2.0, now) for now in (21.9, 22.0)] == [False, True]
    assert [newest_over(60.0, now) for now in (89.9, 90.0, 149.9, 150.0)] == [-1, 0, 0, 1]


@given(st.floats(1.0, 1e6), st.floats(0.0, 1e9))
def test_the_newest_window_that_is_over_is_over_and_the_next_is_not(seconds: float, now: float) -> None:
    newest = newest_over(seconds, now)
    assert over(newest, seconds, now + 1e-6 * now)
    assert not over(newest + 1, seconds, now - 1e-6 * now - 1e-6)


def test_windows_are_kept_until_they_are_stored_and_over() -> None:
    windows = Windows()
    windows.reported([window(0, EVEN)])
    rows = windows.news()
    windows.reported([window(0, EVEN)])
    windows.stored(rows, now=0.0)
    # More was counted while it was being stored.
    (row,) = windows.news()
    assert np.frombuffer(row.counts, "<i8").tolist() == [2 * count for count in EVEN]
    windows.stored([row], now=0.0)
    assert windows.news() == []
    windows.reported([window(0, EVEN)])
    (row,) = windows.news()
    assert np.frombuffer(row.counts, "<i8").tolist() == [3 * count for count in EVEN]
    windows.stored([row], now=1e6)
    windows.reported([window(0, EVEN)])
    (row,) = windows.news()
    assert np.frombuffer(row.counts, "<i8").tolist() == list(EVEN)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state")
    yield store
    store.close()


class Clock:
    """The time that a lookout is told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


def lookout(
    store: SqliteStore, folder: Path, windows: Windows, clock: Clock, route: Route | None = None, settings: str = "60"
) -> Lookout:
    route = route or Route("m", 1, primary=1, shadows={2: 1.0})
    made = Settings(models={"*": {"drift": {"window": float(settings)}}})
    refs = {("m", 1): VersionRef("m", 1, str(folder / "1"))}
    return Lookout(made, store, windows, lambda: {"m": route}, lambda: refs, clock.time)


async def test_what_was_counted_is_judged_once_its_window_is_over(store: SqliteStore, tmp_path: Path) -> None:
    digest = profiled.write(tmp_path / "1")
    windows, clock = Windows(), Clock(60.0 * NEWEST)
    watch = lookout(store, tmp_path, windows, clock)
    windows.reported([window(NEWEST, SHIFTED, digest=digest)])
    await watch.flush()
    await watch.look()
    assert (watch.sentence("m"), watch.newest) == ("", [])
    found = await watch.report("m")
    assert (found.version, found.reason, found.waiting_rows, len(found.windows)) == (1, "", 1000, 0)
    clock.now += 90
    await watch.look()
    assert watch.sentence("m").startswith("2 of 3 features and outputs drift in the 1,000 rows")
    found = await watch.report("m")
    assert found.waiting_rows == 0
    assert [(one.name, one.output, list(one.alarms)) for one in found.windows[0].features] == [
        ("x[0]", False, ["shape"]),
        ("x[1]", False, []),
        ("sum", True, ["shape"]),
    ]
    # Another server that begins knows it too.
    again = lookout(store, tmp_path, Windows(), clock)
    await again.look()
    assert again.newest == watch.newest


async def test_the_newest_window_is_first_and_the_number_is_limited(store: SqliteStore, tmp_path: Path) -> None:
    digest = profiled.write(tmp_path / "1")
    windows, clock = Windows(), Clock(60.0 * NEWEST + 300)
    watch = lookout(store, tmp_path, windows, clock)
    windows.reported([window(NEWEST + n, counts, digest=digest) for n, counts in enumerate((SHIFTED, EVEN))])
    await watch.flush()
    await watch.look()
    assert watch.sentence("m") == ""
    assert [[f.name for f in w.features if f.alarms] for w in (await watch.report("m")).windows] == [
        [],
        ["x[0]", "sum"],
    ]
    assert len((await watch.report("m", 1)).windows) == 1


@pytest.mark.parametrize(
    ("route", "settings", "reason"),
    [
        (Route("m", 1, primary=1), "60", "it has no shadow, and 'unshadowed' is 0 in its drift settings"),
        (Route("m", 1, primary=1, shadows={2: 1.0}), "0", "its window is 0 in the settings"),
    ],
)
async def test_a_model_that_is_not_watched_says_why(
    route: Route, settings: str, reason: str, store: SqliteStore, tmp_path: Path
) -> None:
    profiled.write(tmp_path / "1")
    watch = lookout(store, tmp_path, Windows(), Clock(60.0 * NEWEST), route, settings)
    await watch.look()
    assert (await watch.report("m")).reason == reason


async def test_a_version_without_a_sound_profile_says_so(store: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    watch = lookout(store, tmp_path, Windows(), Clock(60.0 * NEWEST))
    await watch.look()
    assert (await watch.report("m")).reason == "it was converted without a profile"
    profiled.write(tmp_path / "1")
    (tmp_path / "1" / "profile.json").write_text("{}")
    other = lookout(store, tmp_path, Windows(), Clock(60.0 * NEWEST))
    await other.look()
    assert (await other.report("m")).reason.startswith("profile.json: expected the digest sha256:")


async def test_a_new_primary_is_judged_by_its_own_profile(store: SqliteStore, tmp_path: Path) -> None:
    digest = profiled.write(tmp_path / "1")
    windows, clock, routes = Windows(), Clock(60.0 * NEWEST + 300), {"m": Route("m", 1, primary=1, shadows={2: 1.0})}
    refs = {("m", n): VersionRef("m", n, str(tmp_path / str(n))) for n in (1, 2)}
    made = Settings(models={"*": {"drift": {"window": 60.0}}})
    watch = Lookout(made, store, windows, lambda: routes, lambda: refs, clock.time)
    windows.reported([window(NEWEST, SHIFTED, digest=digest)])
    await watch.flush()
    await watch.look()
    assert watch.sentence("m")
    (tmp_path / "2").mkdir()
    routes["m"] = Route("m", 2, primary=2, shadows={1: 1.0})
    await watch.look()
    assert (watch.sentence("m"), watch.newest) == ("", [])
    routes.clear()
    await watch.look()
    assert watch.newest == []
    # One that comes back is looked at at once.
    routes["m"] = Route("m", 3, primary=1, shadows={2: 1.0})
    await watch.look()
    assert watch.sentence("m")


async def test_a_version_that_is_not_there_yet_is_looked_at_once_it_is(store: SqliteStore, tmp_path: Path) -> None:
    digest = profiled.write(tmp_path / "1")
    windows, refs = Windows(), dict[tuple[str, int], VersionRef]()
    route = Route("m", 1, primary=1, shadows={2: 1.0})
    made = Settings(models={"*": {"drift": {"window": 60.0}}})
    watch = Lookout(made, store, windows, lambda: {"m": route}, lambda: refs, Clock(60.0 * NEWEST + 300).time)
    windows.reported([window(NEWEST, SHIFTED, digest=digest)])
    await watch.flush()
    await watch.look()
    assert watch.newest == []
    refs["m", 1] = VersionRef("m", 1, str(tmp_path / "1"))
    await watch.look()
    assert watch.sentence("m")
