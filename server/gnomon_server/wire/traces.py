"""Calls as they were served and mirrored, enough to create their spans afterwards."""

from __future__ import annotations

import msgspec


class CallTrace(msgspec.Struct, frozen=True):
    """A served call, enough to create its spans afterwards."""

    method: str
    status: str
    # 16 bytes.
    trace_id: bytes
    span_id: int
    # 0: none.
    parent_id: int
    trace_state: str
    # Nanoseconds since the epoch.
    start_ns: int
    end_ns: int
    peer: str
    # Empty where no version ran.
    model: str = ""
    version: int = 0
    # 0 where no version ran.
    run_start_ns: int = 0
    run_end_ns: int = 0
    # Of the version that ran; only a primary's calls are mirrored.
    role: str = "primary"


class ShadowTrace(msgspec.Struct, frozen=True):
    """One mirrored request as the shadow ran it."""

    # The primary's call; exported as well if `unsampled`, since no one has done so.
    call: CallTrace
    unsampled: bool
    model: str
    version: int
    outcome: str
    divergent: bool
    start_ns: int
    end_ns: int
    # (output, divergence) of the request's worst row.
    divergences: tuple[tuple[str, float], ...]
