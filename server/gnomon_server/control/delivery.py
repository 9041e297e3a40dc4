"""Delivery: whether a canary goes on to its next share, or to be the primary; pure, told the time and the counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gnomon_server.control.routes import Delivery
from gnomon_server.settings import DeliverySettings

Move = Literal["hold", "advance", "promote"]


@dataclass(frozen=True)
class Decision:
    """What is to be done now."""

    move: Move
    # Why it holds; empty otherwise.
    reason: str = ""
    # Whether it should have gone on long ago.
    stuck: bool = False


@dataclass(frozen=True)
class Progress:
    """Where a delivery stands."""

    # From 1, and how many there are.
    step: int
    steps: int
    # For which the step has lasted.
    seconds: float
    # One of conventions.DELIVERY_STATES.
    state: str
    # Why it is stuck.
    reason: str = ""


def decide(delivery: Delivery, settings: DeliverySettings, now: float, requests: int) -> Decision:
    """Returns what is to be done; `now` is in seconds since the epoch, `requests` what the canary answered in the step.

    A canary that fails is taken back by its own judgement, at any time.
    """
    if delivery.step >= len(settings.steps):
        return Decision(
            "hold", f"the settings have {len(settings.steps)} steps, and this is step {delivery.step + 1}", True
        )
    step, age = settings.steps[delivery.step], max(0.0, now - delivery.began)
    if delivery.paused:
        return Decision("hold", "it is paused")
    stuck = age > step.seconds + settings.stuck
    if age < step.seconds:
        return Decision("hold", f"{age:.0f} of {step.seconds:g} s have passed")
    if requests < step.requests:
        return Decision("hold", f"the canary has answered {requests:,} of {step.requests:,} requests", stuck)
    if not settings.automatic:
        return Decision("hold", "it waits for somebody to say 'next'", stuck)
    return Decision("promote" if delivery.step + 1 == len(settings.steps) else "advance", "", stuck)
