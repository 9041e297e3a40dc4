"""What is remembered for a while: never more than the bound, never longer than it is idle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.recent import Recent

MOST, IDLE = 3, 10.0
STEPS = st.lists(st.tuples(st.sampled_from("pgf"), st.integers(0, 5), st.floats(0, 12)), max_size=40)


@given(STEPS)
def test_what_is_kept_is_what_was_used_last_and_not_long_ago(steps: list[tuple[str, int, float]]) -> None:
    recent: Recent[int, int] = Recent(MOST, IDLE)
    # By key, oldest use first: the value and the time of its last use.
    model: dict[int, tuple[int, float]] = {}
    now, evicted = 0.0, 0
    for number, (action, key, passed) in enumerate(steps):
        now += passed
        fresh = {k: v for k, v in model.items() if now - v[1] <= IDLE}
        if action == "p":
            recent.put(key, number, now)
            fresh.pop(key, None)
            model = {**fresh, key: (number, now)}
            while len(model) > MOST:
                model.pop(next(iter(model)))
                evicted += 1
        elif action == "g":
            assert recent.get(key, now) == (fresh[key][0] if key in fresh else None)
            if key in fresh:
                value = fresh.pop(key)[0]
                model = {**fresh, key: (value, now)}
        else:
            recent.forget(key)
            model.pop(key, None)
        assert len(recent) <= MOST
        assert recent.evicted == evicted
