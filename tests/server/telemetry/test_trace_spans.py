"""Spans made after the fact from traces."""

from __future__ import annotations

import logging

import pytest
import telemetry_samples as samples
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from gnomon_server.telemetry.spans import SpanBuilder, peer_attributes, trace_state

CALL, SHADOW = samples.CALL, samples.SHADOW
BUILDER = SpanBuilder(Resource({}), InstrumentationScope("gnomon"), seed=1)


def test_a_call_and_its_run_are_parent_and_child_at_their_true_times() -> None:
    server, run = BUILDER.call(CALL)
    assert (server.name, server.kind) == (samples.INFER, SpanKind.SERVER)
    assert (server.start_time, server.end_time) == (CALL.start_ns, CALL.end_ns)
    assert server.context.trace_id == int.from_bytes(CALL.trace_id, "big")
    assert server.context.span_id == CALL.span_id
    assert server.parent is not None
    assert (server.parent.span_id, server.parent.is_remote) == (CALL.parent_id, True)
    assert (run.name, run.kind, run.parent) == ("gnomon.run", SpanKind.INTERNAL, server.context)
    assert (run.start_time, run.end_time) == (CALL.run_start_ns, CALL.run_end_ns)


def test_a_call_that_no_version_ran_is_one_span() -> None:
    (server,) = BUILDER.call(samples.changed(CALL, run_start_ns=0, run_end_ns=0, parent_id=0))
    assert server.parent is None


def test_all_spans_carry_the_sampled_flag() -> None:
    spans = [*BUILDER.call(CALL), BUILDER.shadow(SHADOW)]
    assert all(span.context.trace_flags.sampled for span in spans)


def test_a_run_has_the_role_that_its_version_had() -> None:
    _, run = BUILDER.call(samples.changed(CALL, role="previous"))
    assert run.attributes is not None
    assert run.attributes["gnomon.role"] == "previous"


def test_an_unregistered_method_names_no_span() -> None:
    server, _ = BUILDER.call(samples.changed(CALL, method="_OTHER", status="UNIMPLEMENTED"))
    assert server.name == "grpc"
    assert server.attributes is not None
    assert server.attributes["rpc.method"] == "_OTHER"


@pytest.mark.parametrize(
    "status", ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]
)
def test_a_failure_of_the_server_is_an_error(status: str) -> None:
    server, _ = BUILDER.call(samples.changed(CALL, status=status))
    assert (server.status.status_code, server.status.description) == (StatusCode.ERROR, None)
    assert server.attributes is not None
    assert server.attributes["error.type"] == status


@pytest.mark.parametrize(
    "status",
    ["OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED"],
)
def test_any_other_status_is_none(status: str) -> None:
    server, _ = BUILDER.call(samples.changed(CALL, status=status))
    assert server.status.status_code is StatusCode.UNSET
    assert server.attributes is not None
    assert server.attributes["rpc.response.status_code"] == status
    assert "error.type" not in server.attributes


def test_a_shadow_is_the_root_of_its_own_trace_and_linked_to_the_call() -> None:
    shadow = BUILDER.shadow(SHADOW)
    (link,) = shadow.links
    assert shadow.parent is None
    assert shadow.context.trace_id != link.context.trace_id
    assert (link.context.trace_id, link.context.span_id) == (int.from_bytes(CALL.trace_id, "big"), CALL.span_id)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        ("compared", StatusCode.UNSET),
        ("not_comparable", StatusCode.UNSET),
        ("shadow_error", StatusCode.ERROR),
        ("timeout", StatusCode.ERROR),
    ],
)
def test_a_shadow_that_failed_is_an_error(outcome: str, status: StatusCode) -> None:
    shadow = BUILDER.shadow(samples.changed(SHADOW, outcome=outcome))
    assert shadow.status.status_code is status
    assert shadow.attributes is not None
    assert shadow.attributes["gnomon.outcome"] == outcome
    assert ("error.type" in shadow.attributes) is (status is StatusCode.ERROR)


@pytest.mark.parametrize(
    ("peer", "address", "port"),
    [
        ("ipv4:127.0.0.1:53478", "127.0.0.1", 53478),
        ("ipv6:%5B::1%5D:57112", "::1", 57112),
        ("ipv6:[fe80::1]:80", "fe80::1", 80),
        ("unix:/run/gnomon.sock", "/run/gnomon.sock", None),
        ("unix:", None, None),
        ("unix:/a:1", "/a:1", None),
        ("", None, None),
        ("somewhere", None, None),
    ],
)
def test_the_peer_is_read_in_every_form_of_grpc(peer: str, address: str | None, port: int | None) -> None:
    found = peer_attributes(peer)
    assert found.get("network.peer.address") == address
    assert found.get("network.peer.port") == port


@given(st.text())
def test_no_peer_is_a_mistake(peer: str) -> None:
    assert set(peer_attributes(peer)) <= {"network.peer.address", "network.peer.port"}


def test_a_trace_state_travels_on() -> None:
    assert trace_state("vendor=a, tenant@other=b c,,").to_header() == "vendor=a,tenant@other=b c"


@pytest.mark.parametrize(
    "text", ["", "novalue", "a=b,a=c", "A=b", "a=b=c", ",".join(f"k{i}=v" for i in range(33)), "a=\u00e9"]
)
def test_an_invalid_trace_state_is_dropped_silently(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert trace_state(text).to_header() == ""
    assert not caplog.records


@given(st.from_regex(r"\A[a-z0-9@_=, -]{0,80}\Z") | st.text())
def test_no_trace_state_makes_the_sdk_complain(text: str) -> None:
    assert len(trace_state(text)) <= 32
