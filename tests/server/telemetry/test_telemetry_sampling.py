"""Which calls are traced, and in whose trace."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from gnomon_server.telemetry.sampling import Sampler, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
EXPORTING = {"OTEL_TRACES_EXPORTER": "otlp"}


def sampler(name: str = "", argument: str = "") -> Sampler:
    return Sampler.from_environment({**EXPORTING, "OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})


@pytest.mark.parametrize(
    ("name", "argument", "root", "after_sampled", "after_unsampled"),
    [
        ("", "", True, True, False),
        ("always_on", "", True, True, True),
        ("always_off", "", False, False, False),
        ("traceidratio", "0", False, False, False),
        ("traceidratio", "1", True, True, True),
        ("traceidratio", "", True, True, True),
        ("parentbased_always_on", "", True, True, False),
        ("parentbased_always_off", "", False, True, False),
        ("parentbased_traceidratio", "0", False, True, False),
        ("PARENTBASED_ALWAYS_OFF", "", False, True, False),
    ],
)
def test_the_standard_samplers_decide_as_the_specification_says(
    name: str, argument: str, root: bool, after_sampled: bool, after_unsampled: bool
) -> None:
    made = sampler(name, argument)
    assert made.context().sampled is root
    assert made.context(SAMPLED).sampled is after_sampled
    assert made.context(UNSAMPLED).sampled is after_unsampled


@pytest.mark.parametrize("name", ["xray", "parentbased_jaeger_remote", "0.5"])
def test_an_unknown_sampler_is_logged_and_the_default_taken(name: str, caplog: pytest.LogCaptureFixture) -> None:
    made = sampler(name)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert name in caplog.text
    assert made.context().sampled
    assert not made.context(UNSAMPLED).sampled


@pytest.mark.parametrize("argument", ["1.5", "-0.1", "nan", "often"])
def test_an_impossible_share_is_logged_and_all_is_sampled(argument: str, caplog: pytest.LogCaptureFixture) -> None:
    assert sampler("traceidratio", argument).context().sampled
    assert "expected a number in [0, 1]" in caplog.text


def test_nothing_is_sampled_where_no_spans_are_exported() -> None:
    off = Sampler.from_environment({"OTEL_TRACES_SAMPLER": "always_on"})
    assert not off.enabled
    assert not off.context().sampled
    assert not off.context(SAMPLED).sampled


def test_a_call_continues_the_trace_of_its_caller() -> None:
    context = sampler().context(SAMPLED, "vendor=a")
    assert context.trace_id.hex() == TRACE
    assert context.parent_id == int(SPAN, 16)
    assert context.span_id not in (0, context.parent_id)
    assert context.trace_state == "vendor=a"


def test_without_a_caller_a_trace_begins() -> None:
    one, other = sampler().context(None, "vendor=a"), sampler().context()
    assert (one.parent_id, one.trace_state) == (0, "")
    assert len(one.trace_id) == 16
    assert one.trace_id != other.trace_id
    assert one.span_id != other.span_id


def test_an_invalid_parent_and_its_state_are_forgotten() -> None:
    context = sampler().context(f"00-{TRACE}-{'0' * 16}-01", "vendor=a")
    assert context.trace_id.hex() != TRACE
    assert (context.parent_id, context.trace_state) == (0, "")


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        (SAMPLED, True),
        (UNSAMPLED, False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_a_valid_traceparent_is_read(text: str, flag: bool) -> None:
    assert parse_traceparent(text) == (bytes.fromhex(TRACE), int(SPAN, 16), flag)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{'٣' * 32}-{SPAN}-01",
    ],
)
def test_an_invalid_traceparent_is_none(text: str) -> None:
    assert parse_traceparent(text) is None


@given(st.text() | st.from_regex(r"\A[0-9a-g]{2}-[0-9a-f]{31,33}-[0-9a-f]{16}-[0-9a-f]{2}.?\Z"))
def test_whatever_a_client_sends_a_context_is_made(text: str) -> None:
    context = sampler().context(text, text)
    assert any(context.trace_id)
    assert 0 < context.span_id < 1 << 64
    if context.parent_id:
        assert re.match(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", text)


@given(st.integers(1, (1 << 128) - 1), st.floats(0, 1))
def test_a_share_selects_the_traces_that_the_sdk_selects(trace_id: int, share: float) -> None:
    ours = Sampler(share, parent_based=False).context(f"00-{trace_id:032x}-{SPAN}-00")
    theirs = TraceIdRatioBased(share).should_sample(None, trace_id, "call")
    assert ours.sampled is (theirs.decision is Decision.RECORD_AND_SAMPLE)


def test_a_share_of_new_traces_is_sampled() -> None:
    made = Sampler(0.25, parent_based=True, seed=7)
    sampled = sum(made.context().sampled for _ in range(20_000))
    # 6 standard deviations of a binomial count are 367.
    assert abs(sampled - 5_000) < 367


def test_a_frontend_loads_nothing_of_opentelemetry() -> None:
    code = "import sys, gnomon_server.telemetry.sampling; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_new_trace_is_chosen_as_often_as_the_share_says_and_then_has_all_its_ids() -> None:
    sampler = Sampler(0.25, parent_based=True, seed=3)
    found = [sampler.chosen_root() for _ in range(4000)]
    chosen = [context for context in found if context is not None]
    assert 900 < len(chosen) < 1100
    assert all(context.sampled and context.span_id and not context.parent_id for context in chosen)
    assert len({context.trace_id for context in chosen}) == len(chosen)
    # As any other service of the trace decides, by the low half of the id.
    assert all(int.from_bytes(context.trace_id[8:], "big") < 1 << 62 for context in chosen)


def test_no_new_trace_is_chosen_where_none_is_wanted() -> None:
    sampler = Sampler(0.0, parent_based=True)
    assert [sampler.chosen_root() for _ in range(100)] == [None] * 100
