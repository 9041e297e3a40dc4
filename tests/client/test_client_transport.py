"""What goes around a call: trace context, metadata, TLS, and what importing the client loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from client.fake_server import FakeServer
from opentelemetry import baggage, context, trace

from gnomon_client import AsyncClient, Client, InputError, Retries, Tls, Unavailable

CERTIFICATES = Path(__file__).with_name("certificates")
AUTHORITY = CERTIFICATES / "authority.pem"
SPAN = trace.NonRecordingSpan(
    trace.SpanContext(
        trace_id=0x0AF7651916CD43DD8448EB211C80319C,
        span_id=0xB7AD6B7169203331,
        is_remote=False,
        trace_flags=trace.TraceFlags(1),
        trace_state=trace.TraceState([("vendor", "value")]),
    )
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def server_credentials(mutual: bool) -> grpc.ServerCredentials:
    pair = ((CERTIFICATES / "server.key").read_bytes(), (CERTIFICATES / "server.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], AUTHORITY.read_bytes() if mutual else None, mutual)


def test_the_current_span_and_baggage_travel_with_the_call() -> None:
    with FakeServer() as server, Client(server.address) as client:
        token = context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            with trace.use_span(SPAN):
                client.live()
        finally:
            context.detach(token)
        metadata = server.recorder.seen[0].metadata
    assert metadata["traceparent"] == TRACEPARENT
    assert metadata["tracestate"] == "vendor=value"
    assert metadata["baggage"] == "tenant=blue"


async def test_the_async_client_sends_the_current_span() -> None:
    with FakeServer() as server:
        async with AsyncClient(server.address) as client:
            with trace.use_span(SPAN):
                await client.live()
        assert server.recorder.seen[0].metadata["traceparent"] == TRACEPARENT


def test_without_a_span_there_is_no_trace_context() -> None:
    with FakeServer() as server, Client(server.address) as client:
        client.live()
        assert not {"traceparent", "tracestate", "baggage"} & server.recorder.seen[0].metadata.keys()


def test_a_trace_context_that_the_caller_gives_stays() -> None:
    own = TRACEPARENT.replace("b7ad", "0000")
    with FakeServer() as server, Client(server.address) as client, trace.use_span(SPAN):
        client.live(metadata={"traceparent": own})
        assert server.recorder.seen[0].metadata["traceparent"] == own


def test_metadata_of_the_client_and_of_the_call_are_sent_and_the_calls_wins() -> None:
    with FakeServer() as server, Client(server.address, metadata={"Team": "blue", "who": "client"}) as client:
        client.live(metadata={"who": "call", "key-bin": b"\x00\xff"})
        metadata = server.recorder.seen[0].metadata
    assert (metadata["team"], metadata["who"], metadata["key-bin"]) == ("blue", "call", b"\x00\xff")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"a b": "x"}, "expected a key of letters"),
        ({"": "x"}, "expected a key of letters"),
        ({"a": "line\nbreak"}, "metadata 'a': expected printable ASCII text, received other characters"),
        ({"a": b"x"}, "metadata 'a': expected printable ASCII text, received bytes"),
        ({"a-bin": "x"}, "metadata 'a-bin': expected bytes, received str"),
    ],
)
def test_metadata_that_grpc_cannot_carry_is_refused(metadata: dict[str, str | bytes], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Client(metadata=metadata)


def test_tls_trusts_the_given_authority() -> None:
    with FakeServer(credentials=server_credentials(mutual=False)) as server:
        for authority in (AUTHORITY, AUTHORITY.read_bytes()):
            with Client(f"localhost:{server.port}", tls=Tls(authority)) as client:
                assert client.live()


async def test_the_async_client_speaks_tls() -> None:
    with FakeServer(credentials=server_credentials(mutual=False)) as server:
        async with AsyncClient(f"localhost:{server.port}", tls=Tls(AUTHORITY)) as client:
            assert await client.live()


def test_a_server_of_another_authority_is_not_trusted() -> None:
    with (
        FakeServer(credentials=server_credentials(mutual=False)) as server,
        Client(f"localhost:{server.port}", tls=Tls(), retries=Retries(0)) as client,
        pytest.raises(Unavailable, match="expected a server, received no connection"),
    ):
        client.live()


def test_mutual_tls_shows_the_clients_certificate() -> None:
    tls = Tls(AUTHORITY, CERTIFICATES / "client.key", CERTIFICATES / "client.pem")
    with FakeServer(credentials=server_credentials(mutual=True)) as server:
        with Client(f"localhost:{server.port}", tls=tls) as client:
            assert client.live()
        stranger = Client(f"localhost:{server.port}", tls=Tls(AUTHORITY), retries=Retries(0))
        with stranger, pytest.raises(Unavailable):
            stranger.live()


@pytest.mark.parametrize(
    ("tls", "text"),
    [
        (Tls(private_key=b"-----BEGIN x"), "private_key and certificate_chain together, received no certificate_chain"),
        (Tls(certificate_chain=b"-----BEGIN x"), "together, received no private_key"),
        (Tls(Path("nowhere.pem")), "root_certificates: expected a readable file, received 'nowhere.pem': No such file"),
        (Tls(b"secret"), "root_certificates: expected PEM, received 6 bytes without a BEGIN line"),
    ],
)
def test_tls_that_cannot_work_is_refused_at_once(tls: Tls, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Client(tls=tls)


def test_importing_the_client_stays_light() -> None:
    program = "import sys, gnomon_client; print('\\n'.join(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(finished.stdout.split())
    assert "gnomon_client.client" in loaded
    heavy = {"onnxruntime", "onnx", "pandas", "sklearn", "gnomon_server", "gnomon_converters", "opentelemetry"}
    assert not {name for name in loaded if name.partition(".")[0] in heavy}


def test_the_client_works_where_opentelemetry_is_not_installed() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from gnomon_client.headers import injector, with_context
assert injector() is None
assert with_context((("a", "b"),), None) == (("a", "b"),)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_making_a_client_does_not_load_the_opentelemetry_sdk() -> None:
    program = "import sys, gnomon_client; gnomon_client.Client(); print('\\n'.join(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "opentelemetry.sdk" not in finished.stdout.split()
