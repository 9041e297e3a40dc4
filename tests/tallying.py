"""The honest denominator, as tests look at it."""

from __future__ import annotations

from servers import eventually

from gnomon_client import Control
from gnomon_protos import control_pb2 as pb

SETTLED = ("compared", "shadow_error", "primary_error", "timeout", "dropped", "not_comparable")


def settled(outcomes: pb.Outcomes) -> int:
    """Returns the sum of the six outcomes."""
    return sum(getattr(outcomes, name) for name in SETTLED)


def adds_up(outcomes: pb.Outcomes) -> bool:
    """Whether selected is the sum of the outcomes and of what is on its way."""
    return bool(outcomes.selected == settled(outcomes) + outcomes.pending)


def at_rest(control: Control, model: str, selected: int, shadow: int = 0, seconds: float = 60) -> pb.Outcomes:
    """Returns the outcomes once nothing is pending and `selected` requests are known; it must add up all the while."""
    seen = pb.Outcomes()

    def rests() -> str:
        seen.CopyFrom(control.report(model, shadow).outcomes)
        assert adds_up(seen), seen
        assert seen.selected <= selected, f"expected at most {selected} selected, received {seen}"
        return "" if seen.pending or seen.selected < selected else "at rest"

    try:
        eventually(rests, seconds)
    except AssertionError as error:
        raise AssertionError(f"expected {selected} selected and none pending, last seen: {seen} ({error})") from None
    return seen


def mirrored(control: Control, model: str, shadow: int = 2, sample: float = 1.0) -> None:
    """Waits until every request from now on is mirrored: the worker is ready and every frontend has its plan."""
    eventually(lambda: control.report(model, shadow).shadow_state == "ready")
    # A change returns once the frontends have followed the newest plan, also one that changes nothing for them.
    control.shadow(model, shadow, sample)
