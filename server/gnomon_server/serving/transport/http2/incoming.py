"""One stream's requests: from DATA to messages, and what of them is held in memory."""

from __future__ import annotations

from typing import Self

from gnomon_server.errors import NotOffered
from gnomon_server.serving.transport.http2.arrivals import Headers
from gnomon_server.serving.transport.http2.framing import Assembler


class Incoming:
    """The client's half of one open stream."""

    __slots__ = (
        "answered",
        "assembler",
        "begun",
        "due",
        "ended",
        "headers",
        "held",
        "message",
        "path",
        "timeout",
        "unary",
        "unread",
        "unread_bytes",
    )

    def __init__(self, headers: Headers, path: bytes, timeout: float | None, unary: bool) -> None:
        self.headers, self.path, self.timeout, self.unary = headers, path, timeout, unary
        self.assembler: Assembler | None = None
        # A unary call's only message.
        self.message: bytes | None = None
        # The client has sent everything; the call was handed over; response headers have gone out.
        self.ended = False
        self.begun = False
        self.answered = False
        # What the session has counted as held for this stream, and flow control that is not given back yet.
        self.held = 0
        self.due = 0
        # Messages that were handed over and not consumed.
        self.unread = 0
        self.unread_bytes = 0

    @classmethod
    def complete(cls) -> Self:
        """Returns the state of a unary call that was handed over with all that belongs to it."""
        made = cls((), b"", None, True)
        made.ended = made.begun = True
        return made

    def feed(self, data: bytes, limit: int) -> list[bytes]:
        """Returns the messages that became complete; none on a unary call, which keeps its own.

        Raises GnomonError with the status that the call must end with.
        """
        if self.assembler is None:
            self.assembler = Assembler(b"", limit)
        messages = self.assembler.feed(data)
        if not self.unary:
            return messages
        for message in messages:
            if self.message is not None:
                raise NotOffered("expected one message on a unary call, received more")
            self.message = message
        return []

    @property
    def in_memory(self) -> int:
        """Bytes of messages that are incomplete, or not consumed."""
        incomplete = 0 if self.assembler is None else self.assembler.held
        return incomplete + len(self.message or b"") + self.unread_bytes

    @property
    def cut_off(self) -> bool:
        """Whether a message has begun and is not complete."""
        return self.assembler is not None and self.assembler.held > 0
