"""The header forms of gRPC: timeouts, percent-encoded messages, binary metadata.

Source: "gRPC over HTTP2", doc/PROTOCOL-HTTP2.md of grpc/grpc.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from gnomon_server.serving.transport import Pairs

Fields = list[tuple[bytes, bytes]]

# Status numbers by name, as in grpc.StatusCode.
STATUS: Final = {
    name: str(number).encode()
    for number, name in enumerate(
        (
            *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
            *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
            *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
        )
    )
}
# Seconds in each unit of grpc-timeout.
UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
SPACE: Final = b"%20"
_KEY: Final = re.compile(rb"[0-9a-z_.\-]+")
# Bytes that travel as they are in grpc-message: space to tilde but for the percent sign.
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - {0x25}


@lru_cache(4096)
def timeout_seconds(value: bytes) -> float | None:
    """Returns a grpc-timeout in seconds, or None if it is malformed."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * UNITS[match[2]] if match else None


def percent_encoded(text: str) -> bytes:
    """Returns a status text as grpc-message carries it."""
    raw = text.encode("utf-8", "replace")
    # A field may neither begin nor end with a space (RFC 9113, section 8.2.1); who checks it resets the stream.
    inner = raw.strip(b" ")
    if inner == raw and _PLAIN.issuperset(raw):
        return raw
    before, _, after = raw.partition(inner) if inner else (raw, b"", b"")
    encoded = b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in inner)
    return SPACE * len(before) + encoded + SPACE * len(after)


def outgoing(pairs: Pairs) -> Fields:
    """Returns metadata as header fields; a key or value that no header can carry is left out."""
    fields: Fields = []
    for key, value in pairs:
        name = key.lower().encode("ascii", "replace")
        if not _KEY.fullmatch(name) or name.startswith(b"grpc-"):
            continue
        if name.endswith(b"-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            fields.append((name, base64.b64encode(raw).rstrip(b"=")))
        else:
            text = (value if isinstance(value, bytes) else value.encode("ascii", "replace")).strip(b" ")
            if all(0x20 <= byte < 0x7F for byte in text):
                fields.append((name, text))
    return fields


def incoming_text(fields: Mapping[bytes, bytes], key: str) -> str | None:
    """Returns the value of a text key, or None."""
    value = fields.get(key.encode())
    return None if value is None else value.decode("ascii", "replace")


def incoming_binary(fields: Mapping[bytes, bytes], key: str) -> bytes | None:
    """Returns the first value of a "-bin" key, padded or not, or None if there is none or it is no base64."""
    value = fields.get(key.encode())
    if value is None:
        return None
    first = value.partition(b",")[0]
    try:
        return base64.b64decode(first + b"=" * (-len(first) % 4), validate=True)
    except binascii.Error:
        return None
