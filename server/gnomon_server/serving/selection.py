"""Keyed sampling: which requests a shadow sees, and which a canary answers.

The key is the request's id, or its bytes where it has none, so that every replica, every shadow and a later replay
select the same requests, and the requests of a smaller share are among those of a larger one.
"""

from __future__ import annotations

from hashlib import blake2b

_WHOLE = 1 << 64


def position(request_id: str, message: bytes, purpose: bytes = b"") -> float:
    """Returns where a request lies in [0, 1), by its id or else its serialised bytes.

    Of two purposes, bytes of any length up to 64, the positions are independent of each other.
    """
    key = request_id.encode() if request_id else message
    return int.from_bytes(blake2b(key, digest_size=8, key=purpose).digest(), "little") / _WHOLE


def selected(position_: float, sample: float) -> bool:
    """Whether a request at a position is among the share `sample` in (0, 1]."""
    return position_ < sample
