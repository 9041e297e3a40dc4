"""The life of a version in a process: a table of states, so that nothing else can happen to one."""

from __future__ import annotations

from typing import Final

from gnomon_server.errors import GnomonError

LOADING: Final = "loading"
READY: Final = "ready"
FAILED: Final = "failed"
UNLOADED: Final = "unloaded"
STATES: Final = (LOADING, READY, FAILED, UNLOADED)
EVENTS: Final = ("load", "loaded", "load_failed", "unload")

TRANSITIONS: Final[dict[tuple[str, str], str]] = {
    (UNLOADED, "load"): LOADING,
    (LOADING, "loaded"): READY,
    (LOADING, "load_failed"): FAILED,
    # Loading cannot be stopped half way; its result is dropped when it comes.
    (LOADING, "unload"): UNLOADED,
    (READY, "unload"): UNLOADED,
    # A version that failed is tried again when a plan asks for it anew.
    (FAILED, "load"): LOADING,
    (FAILED, "unload"): UNLOADED,
}


class ImpossibleTransition(GnomonError):
    """An event that cannot happen in this state: a defect of the server."""


def after(state: str, event: str) -> str:
    """Returns the state after an event; raises ImpossibleTransition for any other pair."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ImpossibleTransition(f"event {event!r} in state {state!r}") from None
