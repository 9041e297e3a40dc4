"""The sampling decision at the head of a trace, from the standard variables and the caller's W3C trace context.

It runs once in every call, so it imports nothing of OpenTelemetry and makes one small value.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from gnomon_server.telemetry.signals import tracing_enabled

__all__ = ["Sampler", "TraceContext", "parse_traceparent", "tracing_enabled"]

_log = logging.getLogger(__name__)

DEFAULT_SAMPLER: Final = "parentbased_always_on"
# Of a trace id the low 64 bits decide, as in the SDK's TraceIdRatioBased, so that all services of a trace agree.
_LOW_BITS: Final = 1 << 64
# W3C Trace Context, section 3.2.2; what follows the flags is for versions above 00 only.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """Where a call stands in its trace."""

    # 16 bytes, never all zero.
    trace_id: bytes
    # Of the call's server span: 64 unsigned bits, never zero.
    span_id: int
    # The caller's span; 0: none.
    parent_id: int
    sampled: bool
    trace_state: str


class Sampler:
    """Makes trace contexts; any thread may use it."""

    __slots__ = ("_bits", "_bound", "_parent_based")

    def __init__(self, share: float, *, parent_based: bool, seed: int | None = None) -> None:
        """Takes the share of root traces to sample, in [0, 1], and whether a caller's decision goes before it."""
        self._bound = round(share * _LOW_BITS)
        self._parent_based = parent_based
        # Ids need to be unique, not secret; seeded from the system unless a test says otherwise.
        self._bits = random.Random(seed).getrandbits  # noqa: S311

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Sampler:
        """Returns the sampler that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name.

        An unknown name or argument is logged and its default taken, as the specification says. Nothing is sampled where
        no spans are exported.
        """
        if not tracing_enabled(environ):
            return cls(0.0, parent_based=False)
        name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or DEFAULT_SAMPLER
        root = name.removeprefix("parentbased_")
        if root not in ("always_on", "always_off", "traceidratio"):
            _log.warning("OTEL_TRACES_SAMPLER: expected a sampler's name, received %r: using %s", name, DEFAULT_SAMPLER)
            return cls(1.0, parent_based=True)
        share = _ratio(environ) if root == "traceidratio" else float(root == "always_on")
        return cls(share, parent_based=root != name)

    @property
    def enabled(self) -> bool:
        """Whether any call can be sampled, so that it is worth reading its context."""
        return self._parent_based or self._bound > 0

    def chosen_root(self) -> TraceContext | None:
        """Returns the context of a new trace if it is sampled: what is not needs none, and most are not."""
        low = self._bits(64)
        if low >= self._bound:
            return None
        trace_id = (self._bits(64) << 64 | low) or 1
        return TraceContext(trace_id.to_bytes(16, "big"), self._bits(64) or 1, 0, True, "")

    def context(self, traceparent: str | None = None, tracestate: str | None = None) -> TraceContext:
        """Returns a call's context: of the caller's trace, or of a new one if `traceparent` is absent or invalid."""
        span_id = self._bits(64) or 1
        parent = parse_traceparent(traceparent) if traceparent else None
        if parent is None:
            root = self._bits(128) or 1
            return TraceContext(root.to_bytes(16, "big"), span_id, 0, root % _LOW_BITS < self._bound, "")
        trace_id, parent_id, flag = parent
        sampled = flag if self._parent_based else int.from_bytes(trace_id[8:], "big") < self._bound
        return TraceContext(trace_id, span_id, parent_id, sampled, tracestate or "")


def parse_traceparent(text: str) -> tuple[bytes, int, bool] | None:
    """Returns (trace id, parent's span id, sampled flag), or None for a text that is no valid traceparent.

    A version above 00 is read as far as 00 goes; version 00 may not go further (W3C Trace Context, section 3.2.4).
    """
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, parent_id, flags, rest = match.groups()
    if rest and version == "00":
        return None
    return bytes.fromhex(trace_id), int(parent_id, 16), bool(int(flags, 16) & 1)


def _ratio(environ: Mapping[str, str]) -> float:
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    if not text:
        return 1.0
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        _log.warning("OTEL_TRACES_SAMPLER_ARG: expected a number in [0, 1], received %r: using 1", text)
        return 1.0
    return share
