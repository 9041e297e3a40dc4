"""The hello: how a mirror stream begins; it names the source, so that a worker can say from whom it received what."""

from __future__ import annotations

import secrets
from typing import Final

_MAGIC: Final = b"gnomon/1"
_SOURCE_BYTES: Final = 8
SIZE: Final = len(_MAGIC) + _SOURCE_BYTES


def new_source() -> str:
    """Returns the name of one life of one feed: 16 hexadecimal digits that are never used again."""
    return secrets.token_hex(_SOURCE_BYTES)


def encode(source: str) -> bytes:
    """Returns the SIZE bytes to be written before the first record."""
    return _MAGIC + bytes.fromhex(source)


def decode(buffer: bytes) -> str | None:
    """Returns the source that the first SIZE bytes name, or None if they are no hello."""
    if len(buffer) < SIZE or not buffer.startswith(_MAGIC):
        return None
    return buffer[len(_MAGIC) : SIZE].hex()
