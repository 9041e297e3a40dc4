"""Spans of finished calls and shadow runs, made afterwards with their true start and end.

A shadow's run is the root of a trace of its own, linked to the primary's server span: it may end long after the user's
answer and must not lengthen the user's trace.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from gnomon_server.telemetry import conventions as names
from gnomon_server.wire.traces import CallTrace, ShadowTrace

Value = str | int | float | bool

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NO_STATE: Final = TraceState()
# W3C Trace Context, section 3.3.1.3. The SDK logs a warning for each text that is none; clients choose these texts.
_STATE_MEMBER: Final = re.compile(
    r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_STATE_MEMBERS: Final = 32


class SpanBuilder:
    """Makes spans of one resource; one thread at a time."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, seed: int | None = None) -> None:
        self._resource = resource
        self._scope = scope
        # Ids need to be unique, not secret; seeded from the system unless a test says otherwise.
        self._bits = random.Random(seed).getrandbits  # noqa: S311

    def call(self, trace: CallTrace) -> list[ReadableSpan]:
        """Returns the server span of a call and, if a version ran, its run as a child."""
        context = _context(trace)
        parent = self._parent(trace, context)
        spans = [
            self._span(
                trace.method if trace.method != names.OTHER_METHOD else names.GRPC,
                context,
                trace.start_ns,
                trace.end_ns,
                _call_attributes(trace),
                kind=SpanKind.SERVER,
                parent=parent,
                failed=trace.status in names.SERVER_ERRORS,
            )
        ]
        if trace.run_start_ns:
            child = SpanContext(context.trace_id, self._bits(64) or 1, False, _SAMPLED, context.trace_state)
            attributes = _version(trace.model, trace.version, trace.role)
            spans.append(
                self._span(names.RUN_SPAN, child, trace.run_start_ns, trace.run_end_ns, attributes, parent=context)
            )
        return spans

    def shadow(self, trace: ShadowTrace) -> ReadableSpan:
        """Returns the span of a shadow's run, linked to the primary's server span."""
        context = SpanContext(self._bits(128) or 1, self._bits(64) or 1, False, _SAMPLED)
        link = Link(_context(trace.call), _version(trace.call.model, trace.call.version, trace.call.role))
        return self._span(
            names.SHADOW_SPAN,
            context,
            trace.start_ns,
            trace.end_ns,
            _shadow_attributes(trace),
            link=link,
            failed=trace.outcome in names.FAILED_OUTCOMES,
        )

    def _parent(self, trace: CallTrace, context: SpanContext) -> SpanContext | None:
        if not trace.parent_id:
            return None
        return SpanContext(context.trace_id, trace.parent_id, True, _SAMPLED, context.trace_state)

    def _span(
        self,
        name: str,
        context: SpanContext,
        start_ns: int,
        end_ns: int,
        attributes: Mapping[str, Value],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: SpanContext | None = None,
        link: Link | None = None,
        failed: bool = False,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            links=(link,) if link else (),
            kind=kind,
            # Without a description: the code is an attribute already (docs/rpc/grpc.md).
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace: CallTrace) -> SpanContext:
    trace_id = int.from_bytes(trace.trace_id, "big")
    return SpanContext(trace_id, trace.span_id, False, _SAMPLED, trace_state(trace.trace_state))


def trace_state(text: str) -> TraceState:
    """Returns a `tracestate` header as a value; empty for a text that is none."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if not members or len(members) > _STATE_MEMBERS or len(keys) < len(members):
        return _NO_STATE
    if not all(_STATE_MEMBER.fullmatch(member) for member in members):
        return _NO_STATE
    return TraceState.from_header([text])


def peer_attributes(peer: str) -> dict[str, Value]:
    """Returns the address and port in gRPC's form: `ipv4:127.0.0.1:80`, `ipv6:%5B::1%5D:80`, `unix:/path`."""
    scheme, _, rest = unquote(peer).partition(":")
    if not rest:
        return {}
    address, _, port = rest.rpartition(":")
    if scheme == "unix" or not port.isdecimal():
        return {names.NETWORK_PEER_ADDRESS: rest}
    return {names.NETWORK_PEER_ADDRESS: address.strip("[]"), names.NETWORK_PEER_PORT: int(port)}


def _call_attributes(trace: CallTrace) -> dict[str, Value]:
    error: dict[str, Value] = {names.ERROR_TYPE: trace.status} if trace.status in names.SERVER_ERRORS else {}
    return {
        names.RPC_SYSTEM_NAME: names.GRPC,
        names.RPC_METHOD: trace.method,
        names.RPC_RESPONSE_STATUS_CODE: trace.status,
        **error,
        **peer_attributes(trace.peer),
    }


def _shadow_attributes(trace: ShadowTrace) -> dict[str, Value]:
    error: dict[str, Value] = {names.ERROR_TYPE: trace.outcome} if trace.outcome in names.FAILED_OUTCOMES else {}
    return {
        **_version(trace.model, trace.version, names.SHADOW),
        names.OUTCOME: trace.outcome,
        names.DIVERGENT: trace.divergent,
        **error,
        **{f"{names.DIVERGENCE_OF}{output}": divergence for output, divergence in trace.divergences},
    }


def _version(model: str, version: int, role: str) -> dict[str, Value]:
    return {names.MODEL_NAME: model, names.MODEL_VERSION: str(version), names.ROLE: role}
