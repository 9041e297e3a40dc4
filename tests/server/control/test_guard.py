"""The guard's decisions: quick to thin, slow to come back, never without a cause."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.control.guard import CALM, MOST, SETTLE, Guard, Reading
from gnomon_server.serving.selection import position, selected

RECOVERY = 5.0
OVER = (Reading("latency", 2.0, 3.0, 1.0),)
BETWEEN = (Reading("latency", 0.5, 1.5, 1.0),)
CALM_NOW = (Reading("latency", 0.1, 0.2, 1.0),)
LOOKS = st.lists(
    st.tuples(st.floats(0.1, 10.0), st.sampled_from([OVER, BETWEEN, CALM_NOW, (*CALM_NOW, *OVER), ()])), max_size=60
)


def looked(looks: list[tuple[float, tuple[Reading, ...]]]) -> list[tuple[float, Guard]]:
    """Returns the guard after each look, with its time; each comes some seconds after the one before."""
    guard, now, seen = Guard(), 0.0, []
    for seconds, readings in looks:
        now += seconds
        guard = guard.after(readings, now, RECOVERY)
        seen.append((now, guard))
    return seen


@given(LOOKS)
def test_the_share_is_halved_or_doubled_and_nothing_else(looks: list[tuple[float, tuple[Reading, ...]]]) -> None:
    guards = [Guard(), *(guard for _, guard in looked(looks))]
    assert all(0 <= guard.halvings <= MOST for guard in guards)
    assert all(abs(b.halvings - a.halvings) <= 1 for a, b in pairwise(guards))
    assert all(guard.factor == 0.5**guard.halvings for guard in guards)


@given(LOOKS)
def test_it_is_halved_exactly_when_something_is_over_its_limit_and_the_last_step_had_time(
    looks: list[tuple[float, tuple[Reading, ...]]],
) -> None:
    before = Guard()
    for (now, guard), (_, readings) in zip(looked(looks), looks, strict=True):
        over = any(reading.over for reading in readings)
        due = over and now - before.changed >= SETTLE and before.halvings < MOST
        assert (guard.halvings > before.halvings) == due
        before = guard


@given(LOOKS)
def test_it_is_doubled_only_after_a_whole_recovery_of_calm_since_the_last_change(
    looks: list[tuple[float, tuple[Reading, ...]]],
) -> None:
    changed, calm_since, before = 0.0, None, 0
    for (now, guard), (_, readings) in zip(looked(looks), looks, strict=True):
        calm = all(reading.calm for reading in readings)
        calm_since = (now if calm_since is None else calm_since) if calm else None
        if guard.halvings < before:
            assert calm_since is not None
            assert now - max(calm_since, changed) >= RECOVERY
        if guard.halvings != before:
            changed, before = now, guard.halvings


@given(LOOKS)
def test_it_always_comes_back_once_all_is_calm(looks: list[tuple[float, tuple[Reading, ...]]]) -> None:
    calm = [(1.0, CALM_NOW)] * (int(RECOVERY + 2) * (MOST + 1))
    assert looked([*looks, *calm])[-1][1].halvings == 0


def test_between_calm_and_over_nothing_changes() -> None:
    thinned = looked([(1.0, OVER)])
    held = looked([(1.0, OVER), *[(1.0, BETWEEN)] * 100])
    assert thinned[-1][1].halvings == held[-1][1].halvings == 1


def test_the_cause_is_that_which_is_over() -> None:
    readings = (Reading("queue", 1, 1, 10), Reading("pressure", 0.9, 0.9, 0.5))
    assert Guard().after(readings, 0.0, RECOVERY).cause == "pressure"
    assert (Reading("queue", 10, 10, 10).over, Reading("queue", 10, 10, 10).calm) == (False, False)
    assert Reading("queue", 8, 8, 10 / CALM * 0.8).calm


@given(st.text(min_size=1), st.floats(0.01, 1.0), st.integers(0, MOST), st.integers(0, MOST))
def test_what_is_mirrored_when_thinned_more_is_mirrored_when_thinned_less(
    request_id: str, share: float, one: int, other: int
) -> None:
    place = position(request_id, b"")
    more, less = sorted((share * Guard(one).factor, share * Guard(other).factor))
    assert selected(place, less) or not selected(place, more)
