"""One stream's requests: from DATA to messages, and what of them is held in memory."""

from __future__ import annotations

from gnomon_server.errors import NotOffered
from gnomon_server.serving.transport.http2.framing import Assembler
from gnomon_server.serving.transport.http2.head import Head


class Incoming:
    """The client's half of one open stream."""

    # Defaults on the class, not slots: most calls never need more than what the constructor sets.
    # None until DATA comes, unless it is announced as compressed.
    assembler: Assembler | None = None
    # A unary call's only message.
    message: bytes | None = None
    # The client has sent everything; the call was handed over; response headers have gone out.
    ended = False
    begun = False
    answered = False
    # What the session has counted as held for this stream, and flow control that is not given back yet.
    held = 0
    due = 0
    # Messages that were handed over and not consumed.
    unread = 0
    unread_bytes = 0

    def __init__(self, head: Head, unary: bool) -> None:
        self.head, self.unary = head, unary

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
