"""The head of a request: what its header fields mean to gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gnomon_server.errors import Exhausted, GnomonError, InvalidRequest
from gnomon_server.serving.transport.http2.framing import ENCODINGS, unknown_encoding
from gnomon_server.serving.transport.http2.metadata import timeout_seconds

# As they came, in order.
Headers = tuple[tuple[bytes, bytes], ...]

CONTENT_TYPE: Final = b"application/grpc"
# What each field counts beside its name and value (RFC 9113, section 6.5.2).
OVERHEAD: Final = 32
# What may follow: a message format, or parameters. "application/grpc-web" is another protocol.
CONTENT_TYPES: Final = (CONTENT_TYPE + b"+", CONTENT_TYPE + b";")


@dataclass(frozen=True)
class Head:
    """What a request says before its messages."""

    # By name, the first value of each.
    fields: Mapping[bytes, bytes] = field(default_factory=dict)
    path: bytes = b""
    # Seconds, as received.
    timeout: float | None = None
    encoding: bytes | None = None
    # HTTP's own status for what is not gRPC, as the specification asks for.
    refused: bytes | None = None
    # How a call must end whose head is malformed.
    error: GnomonError | None = None


def read(headers: Headers, most: int) -> Head:
    """Returns what header fields of so many bytes at most mean; HTTP/2 has checked that the pseudo fields are there."""
    fields = dict(reversed(headers))
    kind = fields.get(b"content-type", b"")
    if fields[b":method"] != b"POST":
        return Head(fields, refused=b"405")
    if kind != CONTENT_TYPE and not kind.startswith(CONTENT_TYPES):
        return Head(fields, refused=b"415")
    path, encoding, raw = fields.get(b":path", b""), fields.get(b"grpc-encoding"), fields.get(b"grpc-timeout")
    timeout = None if raw is None else timeout_seconds(raw)
    size = sum([len(name) + len(value) + OVERHEAD for name, value in headers])
    if size > most:
        return Head(fields, path, timeout, error=Exhausted(f"headers: expected at most {most} bytes, received {size}"))
    if encoding is not None and encoding not in ENCODINGS:
        return Head(fields, path, timeout, error=unknown_encoding(encoding))
    if raw is not None and timeout is None:
        return Head(fields, path, error=InvalidRequest("grpc-timeout: expected 1 to 8 digits and a unit"))
    return Head(fields, path, timeout, encoding)
