"""The transport: a method table in, message bytes in and out.

A transport knows gRPC and nothing of models; handlers know messages and nothing of gRPC. A unary handler gets a call
and ends it once, now or later, on the transport's event loop; several that arrive together are handed over before
`after_pass` is called, so that they can be run together. A streaming handler turns an iterator of messages into one,
and ends the call with OK by returning or with an error by raising a GnomonError.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gnomon_server.errors import GnomonError

# Metadata; a key that ends in "-bin" has bytes.
Pairs = Sequence[tuple[str, str | bytes]]


class Call(ABC):
    """One call on the way; belongs to the event loop of its transport."""

    # What the handler and the observer want to remember.
    note: object = None
    trace: object = None
    # Metadata to send before the first message, and with the status.
    initial: Pairs = ()
    trailing: Pairs = ()
    # Whether the call is answered, failed, cancelled or past its deadline, so that work for it is in vain.
    ended = False

    def __init__(self, method: str, message: bytes, start: float | None = None, start_ns: int | None = None) -> None:
        """Takes when the call came, by time.perf_counter() and as nanoseconds since the epoch; else it is now."""
        # Full name without the leading slash; "_OTHER" where the table has no such method.
        self.method = method
        # The serialised request; empty on a stream.
        self.message = message
        self.start = time.perf_counter() if start is None else start
        self.start_ns = time.time_ns() if start_ns is None else start_ns

    @abstractmethod
    def metadata(self, key: str) -> str | None:
        """Returns the first text value of a metadata key, lower case, or None."""

    def binary_metadata(self, key: str) -> bytes | None:  # noqa: ARG002 - for transports that have any
        """Returns the first value of a key that ends in "-bin", or None, also if it is malformed."""
        return None

    @abstractmethod
    def peer(self) -> str:
        """Returns the peer's address as gRPC prints it: `ipv4:127.0.0.1:53478`."""

    @abstractmethod
    def time_remaining(self) -> float | None:
        """Returns the seconds until the deadline, or None without one."""

    @abstractmethod
    def answer(self, message: bytes) -> None:
        """Ends the call with OK; does nothing if the client has gone."""

    @abstractmethod
    def fail(self, error: GnomonError) -> None:
        """Ends the call with the error's status and text; does nothing if the client has gone."""


@dataclass(frozen=True)
class Unary:
    """One message in, one out."""

    handle: Callable[[Call], None]


@dataclass(frozen=True)
class Stream:
    """Any number of messages in and out."""

    handle: Callable[[Call, AsyncIterator[bytes]], AsyncIterator[bytes]]


# "package.Service/Method" to its handler.
Methods = Mapping[str, Unary | Stream]
# Called when everything that arrived together has been handed over.
AfterPass = Callable[[], None]
# Called with calls that ended, each once, and the names of their statuses; after their answers are written, where many
# are written at once.
Observer = Callable[[Sequence[tuple[Call, str]]], None]


def broken_off(call: Call) -> str:
    """Returns the status of a call that its client ended: CANCELLED, unless it did so because the deadline passed.

    On the wire a deadline is rounded up by as much as 1 % or 1 ms, so that the client's clock strikes first.
    """
    remaining = call.time_remaining()
    rounding = 0.002 + 0.01 * (time.perf_counter() - call.start)
    return "CANCELLED" if remaining is None or remaining > rounding else "DEADLINE_EXCEEDED"


# Bytes of a status text; it travels percent-encoded, and clients drop answers whose trailers are too long.
MOST_TEXT = 1024


def status_text(text: str) -> str:
    """Returns as much of a status text as is sent."""
    return text.encode("utf-8", "replace")[:MOST_TEXT].decode("utf-8", "ignore")


class Transport(Protocol):
    """A server for one method table."""

    async def start(self) -> int:
        """Begins to listen; returns the port."""

    async def drain(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for those in flight, then closes."""
