"""Delivery: when a canary goes on to its next share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnomon_server.control.delivery import decide
from gnomon_server.control.routes import Delivery
from gnomon_server.settings import DeliverySettings, StepSettings

TWO = DeliverySettings((StepSettings(0.1, 60.0, 100), StepSettings(0.5, 60.0, 100)), stuck=600.0)
BY_HAND = DeliverySettings(TWO.steps, automatic=False, stuck=600.0)


@pytest.mark.parametrize(
    ("delivery", "now", "requests", "move", "reason", "stuck"),
    [
        (Delivery(0, 1000.0), 1030.0, 500, "hold", "30 of 60 s have passed", False),
        (Delivery(0, 1000.0), 900.0, 500, "hold", "0 of 60 s have passed", False),
        (Delivery(0, 1000.0), 1060.0, 99, "hold", "the canary has answered 99 of 100 requests", False),
        (Delivery(0, 1000.0), 1661.0, 99, "hold", "the canary has answered 99 of 100 requests", True),
        (Delivery(0, 1000.0), 1060.0, 100, "advance", "", False),
        (Delivery(1, 1000.0), 1060.0, 100, "promote", "", False),
        (Delivery(1, 1000.0), 1661.0, 100, "promote", "", True),
        (Delivery(0, 1000.0, paused=True), 9000.0, 500, "hold", "it is paused", False),
        (Delivery(2, 1000.0), 1000.0, 0, "hold", "the settings have 2 steps, and this is step 3", True),
    ],
)
def test_a_step_ends_with_its_time_and_its_requests(
    delivery: Delivery, now: float, requests: int, move: str, reason: str, stuck: bool
) -> None:
    found = decide(delivery, TWO, now, requests)
    assert (found.move, found.reason, found.stuck) == (move, reason, stuck)


def test_by_hand_it_waits_for_somebody() -> None:
    found = decide(Delivery(0, 0.0), BY_HAND, 60.0, 100)
    assert (found.move, found.reason, found.stuck) == ("hold", "it waits for somebody to say 'next'", False)
    assert decide(Delivery(0, 0.0), BY_HAND, 661.0, 100).stuck


STEPS = st.builds(StepSettings, st.floats(0.01, 1), st.floats(0, 50), st.integers(0, 50))
CHOSEN = st.builds(DeliverySettings, st.lists(STEPS, max_size=4).map(tuple), st.booleans(), st.floats(1, 100))


@settings(max_examples=300)
@given(CHOSEN, st.lists(st.tuples(st.floats(0, 30), st.integers(0, 30), st.booleans()), max_size=30))
def test_whatever_happens_no_step_is_left_out_or_cut_short(
    chosen: DeliverySettings, looks: list[tuple[float, int, bool]]
) -> None:
    delivery, now, requests = Delivery(0, 0.0), 0.0, 0
    for passed, answered, paused in looks:
        now, requests = now + passed, requests + answered
        delivery = Delivery(delivery.step, delivery.began, paused)
        found = decide(delivery, chosen, now, requests)
        if found.move == "hold":
            assert found.reason
            continue
        step = chosen.steps[delivery.step]
        assert chosen.automatic
        assert not paused
        assert now - delivery.began >= step.seconds
        assert requests >= step.requests
        assert found.move == ("promote" if delivery.step == len(chosen.steps) - 1 else "advance")
        if found.move == "promote":
            break
        delivery, requests = Delivery(delivery.step + 1, now), 0
