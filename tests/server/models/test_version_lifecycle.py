"""The table of states: all pairs."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.models.lifecycle import EVENTS, STATES, TRANSITIONS, ImpossibleTransition, after

POSSIBLE = {
    ("unloaded", "load"): "loading",
    ("loading", "loaded"): "ready",
    ("loading", "load_failed"): "failed",
    ("loading", "unload"): "unloaded",
    ("ready", "unload"): "unloaded",
    ("failed", "load"): "loading",
    ("failed", "unload"): "unloaded",
}


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
def test_every_pair_leads_where_the_table_says_or_nowhere(state: str, event: str) -> None:
    if (state, event) in POSSIBLE:
        assert after(state, event) == POSSIBLE[state, event]
    else:
        with pytest.raises(ImpossibleTransition, match=f"'{event}' in state '{state}'"):
            after(state, event)


@given(st.lists(st.sampled_from(EVENTS)))
def test_no_sequence_of_events_leaves_the_states(events: list[str]) -> None:
    state = "unloaded"
    for event in events:
        try:
            state = after(state, event)
        except ImpossibleTransition:
            continue
        assert state in STATES


def test_every_state_can_be_reached_and_left() -> None:
    assert {after for (_, _), after in TRANSITIONS.items()} == set(STATES)
    assert {before for before, _ in TRANSITIONS} == set(STATES)
