"""TLS, mutual TLS and their files, on every transport."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import grpc
import grpc.aio
import pytest
from server.transport.rooms import (
    CERTIFICATES,
    MAKERS,
    MUTUAL,
    TLS,
    House,
    Maker,
    channel,
    serving,
    status,
    stream,
    unary,
)

from gnomon_server.errors import InvalidRequest
from gnomon_server.serving.transport.http2 import Http2Transport
from gnomon_server.serving.transport.http2.limits import Limits
from gnomon_server.serving.transport.tls import LOOK, Reloaded, Tls

AUTHORITY = (CERTIFICATES / "authority.pem").read_bytes()
CLIENT = [(CERTIFICATES / name).read_bytes() for name in ("client.key", "client.pem")]


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.__name__)
def maker(request: pytest.FixtureRequest) -> Maker:
    made: Maker = request.param
    return made


def credentials(known: bool = False) -> grpc.ChannelCredentials:
    key, chain = CLIENT if known else (None, None)
    return grpc.ssl_channel_credentials(AUTHORITY, key, chain)


async def test_calls_pass_through_tls(maker: Maker) -> None:
    async with (
        serving(maker, House(), "localhost:0", tls=TLS) as target,
        channel(target, credentials=credentials()) as wire,
    ):
        message = os.urandom(10 << 20)
        assert await unary(wire, "Echo", message) == message
        assert await unary(wire, "Echo", b"") == b""
        call = stream(wire, "Echoes")
        for size in (1, 100_000, 0):
            await call.write(b"x" * size)
            assert await call.read() == b"x" * size
        await call.done_writing()
        assert await status(call) == ("OK", "")


async def test_a_client_without_tls_is_turned_away(maker: Maker) -> None:
    async with serving(maker, House(), "localhost:0", tls=TLS) as target, channel(target) as wire:
        assert (await status(unary(wire, "Echo", timeout=5)))[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


async def test_with_an_authority_a_client_must_have_a_certificate(maker: Maker) -> None:
    async with serving(maker, House(), "localhost:0", tls=MUTUAL) as target:
        async with channel(target, credentials=credentials(known=True)) as wire:
            assert await unary(wire, "Echo", b"hello") == b"hello"
        async with channel(target, credentials=credentials()) as wire:
            assert (await status(unary(wire, "Echo", timeout=5)))[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        async with channel(target, credentials=credentials(known=True)) as wire:
            assert await unary(wire, "Echo", b"again") == b"again"


@pytest.mark.parametrize("damage", ["missing", "empty", "swapped", "other"])
def test_files_that_do_not_do_are_named(damage: str, maker: Maker, tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    shutil.copy(TLS.certificate, certificate)
    shutil.copy(TLS.key, key)
    if damage == "missing":
        key.unlink()
    elif damage == "empty":
        certificate.write_bytes(b"")
    elif damage == "swapped":
        key.write_bytes(certificate.read_bytes())
    else:
        shutil.copy(CERTIFICATES / "client.key", key)

    async def made() -> None:
        maker(House().methods(), House().observe, lambda: None, "localhost:0", 1 << 20, tls=Tls(certificate, key))

    with pytest.raises(InvalidRequest, match=r"server\.pem"):
        asyncio.run(made())


def test_files_are_loaded_again_when_they_change_and_kept_when_they_break(tmp_path: Path) -> None:
    now = 0.0
    tls = Tls(tmp_path / "a", tmp_path / "b")
    for path in tls.files:
        path.write_text("1")

    def load(files: Tls) -> int:
        return sum(int(path.read_text()) for path in files.files)

    reloaded = Reloaded(tls, load, lambda: now)
    assert reloaded.value == 2
    tls.key.write_text("20")
    assert not reloaded.renew()
    now += LOOK
    assert reloaded.renew()
    assert reloaded.value == 21
    now += LOOK
    assert not reloaded.renew()
    tls.key.write_text("broken")
    now += LOOK
    with pytest.raises(InvalidRequest, match="expected a certificate"):
        reloaded.renew()
    tls.key.unlink()
    now += LOOK
    with pytest.raises(InvalidRequest, match="No such file"):
        reloaded.renew()
    assert reloaded.value == 21
    tls.key.write_text("300")
    now += LOOK
    assert reloaded.renew()
    assert reloaded.value == 301


async def presented(target: str) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.create_default_context(cadata=AUTHORITY.decode())
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(CERTIFICATES / "client.pem", CERTIFICATES / "client.key")
    _, writer = await asyncio.open_connection("localhost", int(target.rpartition(":")[2]), ssl=context)
    try:
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert isinstance(found, bytes)
        return found
    finally:
        writer.close()
        with suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()


async def test_new_connections_get_the_new_certificate(maker: Maker, tmp_path: Path) -> None:
    tls = Tls(tmp_path / "server.pem", tmp_path / "server.key")
    shutil.copy(TLS.certificate, tls.certificate)
    shutil.copy(TLS.key, tls.key)
    async with serving(maker, House(), "localhost:0", tls=tls) as target:
        first = await presented(target)
        # Any pair will do; this one happens to be a client's.
        shutil.copy(CERTIFICATES / "client.key", tls.key)
        shutil.copy(CERTIFICATES / "client.pem", tls.certificate)
        async with asyncio.timeout(60):
            while await presented(target) == first:
                await asyncio.sleep(0.1)


async def test_a_client_that_does_not_speak_h2_is_told_by_the_end_of_the_connection() -> None:
    async with serving(Http2Transport, House(), "localhost:0", tls=TLS) as target:
        context = ssl.create_default_context(cadata=AUTHORITY.decode())
        context.set_alpn_protocols(["http/1.1"])
        with suppress(ssl.SSLError, ConnectionError):
            reader, writer = await asyncio.open_connection("localhost", int(target.rpartition(":")[2]), ssl=context)
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
            await writer.wait_closed()


async def test_a_client_that_never_agrees_on_tls_is_closed() -> None:
    limits = Limits(handshake_seconds=0.1)
    async with serving(Http2Transport, House(), "localhost:0", tls=TLS, limits=limits) as target:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("localhost", int(target.rpartition(":")[2]))) as link:
            link.setblocking(False)
            assert await asyncio.wait_for(loop.sock_recv(link, 10), 30) == b""
