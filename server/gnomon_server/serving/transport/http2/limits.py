"""What one connection may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one connection; the defaults leave room for every client that means well."""

    # The largest message, also inflated. Four times as many bytes of requests may wait at once, and of answers.
    message_bytes: int = 64 << 20
    # Calls at the same time.
    streams: int = 1000
    # Header fields of one request, counted as HTTP/2 counts them. What is longer ends the call; four times as much
    # ends the connection.
    header_bytes: int = 16 << 10
    # PINGs between two calls: a burst, and then one in so many seconds. grpc-core's server allows less (2 strikes).
    pings: int = 100
    ping_seconds: float = 1.0
    # RST_STREAMs: a burst, and then so many a second. Clients whose deadlines pass send one for each call.
    resets: int = 10_000
    resets_per_second: int = 2_000
    # Seconds in which TLS must be agreed upon.
    handshake_seconds: float = 20.0
    # Seconds without a call after which a connection ends, and after which any connection ends (with 10 % of jitter,
    # so that clients do not come back all at once); `grace_seconds` are left to calls on it. None for never.
    idle_seconds: float | None = None
    age_seconds: float | None = None
    grace_seconds: float = 30.0

    @property
    def waiting_bytes(self) -> int:
        """Bytes of requests that may be held, and bytes of answers above which requests have to wait."""
        return 4 * self.message_bytes
