"""Raids: what one client can do to a server with frames, windows and sockets instead of messages.

Each takes the server's address and a seeded source, and returns the outcome of a call that has to succeed, if it makes
one. What becomes of others meanwhile, the witness tells, and what is left behind afterwards, the memory.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

from hostile.attacker import PATIENCE, Attacker, Gone, Outcome, headers
from hostile.forgeries import GOOD, INFER, Forgery, framed
from raw_calls import request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 1, 2, 3, 4, 6, 8, 9
DATA = 0
END_STREAM, END_HEADERS = 1, 4
WATCH = b"/grpc.health.v1.Health/Watch"
LINE = framed(request("line", GOOD["line"]).SerializeToString())
# Header fields of a call without compression: indexed from HPACK's static table, or literal.
POST, HTTP, PATH = b"\x83", b"\x86", b"\x04"
Raid = Callable[[str, random.Random], Awaitable[Outcome | None]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns a frame of HTTP/2, valid or not."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Returns a header field that HPACK does not remember."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    rest, head = size - 127, bytearray(b"\x7f")
    while rest >= 128:
        head.append(rest & 127 | 128)
        rest >>= 7
    head.append(rest)
    return bytes(head) + text


def call_headers(path: bytes = INFER.encode()) -> bytes:
    """Returns the header block of a call."""
    fixed = POST + HTTP + PATH + _string(path) + literal(b":authority", b"test")
    return fixed + literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")


async def pushed(address: str, *chunks: bytes, wait: float = 0.0) -> bytes:
    """Sends bytes on a connection of their own as long as the server takes them; returns what it said."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    with socket.create_connection((host, int(port))) as link:
        link.setblocking(False)
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for chunk in (PREFACE + frame(SETTINGS, 0, 0), *chunks):
                    await loop.sock_sendall(link, chunk)
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(wait or 0.05):
                said = bytearray()
                while part := await loop.sock_recv(link, 1 << 16):
                    said += part
        return bytes(said)


async def resets(address: str, chance: random.Random) -> None:
    """Calls that are given up as soon as they have begun, thousands of them."""
    block = call_headers()
    storm = b"".join(
        frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 2 * chance.randint(2000, 4000), 2)
    )
    await pushed(address, storm)


async def made_resets(address: str, chance: random.Random) -> None:
    """Calls that make the server reset them: a window update of zero on each."""
    block = call_headers()
    storm = b"".join(
        frame(HEADERS, END_HEADERS, stream, block) + frame(WINDOW_UPDATE, 0, stream, bytes(4))
        for stream in range(1, 2 * chance.randint(1000, 2000), 2)
    )
    await pushed(address, storm)


async def continuations(address: str, chance: random.Random) -> None:
    """Headers that never end."""
    piece = chance.choice((b"", literal(b"x", b"y" * 50), literal(b"x", b"y" * 16_000)))
    begin = frame(HEADERS, 0, 1, call_headers())
    await pushed(address, begin, *[frame(CONTINUATION, 0, 1, piece) * 100] * 20)


async def headers_of_many(address: str, chance: random.Random) -> None:
    """A header that HPACK remembers, repeated: a byte on the wire, kilobytes in memory."""
    first = frame(HEADERS, END_HEADERS | END_STREAM, 1, call_headers() + b"\x40" + _string(b"x") + _string(b"y" * 3000))
    bomb = call_headers() + b"\xbe" * 10_000
    await pushed(address, first, *[frame(HEADERS, END_HEADERS | END_STREAM, stream, bomb) for stream in (3, 5, 7)])


async def windows(address: str, chance: random.Random) -> None:
    """Windows that overflow, shrink below zero, or change a thousand times."""
    opened = frame(HEADERS, END_HEADERS, 1, call_headers())
    grow = frame(WINDOW_UPDATE, 0, chance.choice((0, 1)), struct.pack(">I", 2**31 - 1))
    shrink = [frame(SETTINGS, 0, 0, struct.pack(">HI", 4, size)) for size in (0, 2**31 - 1)]
    abuse = chance.choice(
        (opened + grow * 2, opened + b"".join(shrink) * 500, frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)))
    )
    await pushed(address, abuse)


async def floods(address: str, chance: random.Random) -> None:
    """Frames that cost nothing to send: PING, SETTINGS, PRIORITY, empty DATA, unknown ones."""
    opened = frame(HEADERS, END_HEADERS, 1, call_headers())
    each = chance.choice(
        (
            frame(PING, 0, 0, bytes(8)),
            frame(SETTINGS, 0, 0),
            frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 1)),
            frame(DATA, 0, 1),
            frame(DATA, 8, 1, b"\xff" + bytes(255)),
            frame(200, 255, 1, bytes(10)),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)),
        )
    )
    await pushed(address, opened, *[each * 1000] * 20)


async def frames_at_random(address: str, chance: random.Random) -> None:
    """Frames of any kind, flags, stream and length that lies."""
    noise = b"".join(
        frame(chance.randrange(12), chance.randrange(256), chance.randrange(8), chance.randbytes(chance.randrange(40)))
        for _ in range(100)
    )
    await pushed(address, noise[: chance.randrange(len(noise))])


async def no_http2(address: str, chance: random.Random) -> None:
    """What is no HTTP/2: noise, HTTP/1, a TLS handshake, half a preface."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)
    for bytes_sent in (chance.randbytes(3000), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", hello, PREFACE[:10], b""):
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as link, suppress(ConnectionError):
            link.sendall(bytes_sent)


async def cut_off(address: str, chance: random.Random) -> None:
    """Connections that are torn down in the middle of a message, by an end or by a reset."""
    whole = frame(HEADERS, END_HEADERS, 1, call_headers()) + frame(DATA, 0, 1, LINE)
    host, port = address.rsplit(":", 1)
    for _ in range(50):
        with socket.create_connection((host, int(port))) as link, suppress(ConnectionError):
            if chance.random() < 0.5:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sent = PREFACE + frame(SETTINGS, 0, 0) + whole
            link.sendall(sent[: chance.randrange(len(sent))])


async def drop_by_drop(address: str, _: random.Random) -> Outcome:
    """A call whose bytes come one by one; it is answered all the same."""
    loop = asyncio.get_running_loop()
    with Attacker(address) as attacker:
        stream = attacker.begin(Forgery("drop", INFER.encode(), LINE))
        data = attacker.http2.data_to_send()
        attacker.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for place in range(len(data)):
            await loop.sock_sendall(attacker.link, data[place : place + 1])
        return await attacker.outcome(stream)


async def idle(address: str, _: random.Random) -> Outcome:
    """A thousand connections that say nothing, and as many that only greet; a call is answered beside them."""
    host, port = address.rsplit(":", 1)
    with ExitStack() as links:
        for number in range(2000):
            link = links.enter_context(socket.create_connection((host, int(port))))
            if number % 2:
                link.sendall(PREFACE + frame(SETTINGS, 0, 0))
        with Attacker(address) as attacker:
            return (await attacker.send([Forgery("idle", INFER.encode(), LINE)]))[0]


async def slow_readers(address: str, chance: random.Random) -> None:
    """Calls whose answers nobody reads, and then resets; the windows stay shut."""
    with ExitStack() as attackers:
        for _ in range(5):
            attacker = attackers.enter_context(Attacker(address, window=0))
            for _ in range(90):
                attacker.begin(Forgery("slow", INFER.encode(), LINE))
            await attacker.flush()
        await asyncio.sleep(0.05 * chance.random())


async def watches(address: str, chance: random.Random) -> None:
    """Streams that stay open, each with messages that nobody will read."""
    with Attacker(address) as attacker:
        for _ in range(chance.randint(50, 90)):
            stream = attacker.http2.send_request(headers(Forgery("watch", WATCH, b"")))
            attacker.http2.send_data(stream, framed(b"") * 1000)
        with suppress(Gone, ConnectionError):
            await attacker.flush()
            await attacker.receive()


async def bombs(address: str, _: random.Random) -> None:
    """A message that is a thousand times larger once it is inflated, on many streams."""
    bomb = framed(gzip.compress(bytes(64 << 20), 9), 1)
    with Attacker(address) as attacker:
        fields = ((b"grpc-encoding", b"gzip"),)
        await attacker.send([Forgery("bomb", INFER.encode(), bomb, fields)] * 4)


RAIDS: dict[str, Raid] = {
    raid.__name__: raid
    for raid in (
        *(resets, made_resets, continuations, headers_of_many, windows, floods, frames_at_random, no_http2, cut_off),
        *(drop_by_drop, idle, slow_readers, watches, bombs),
    )
}
