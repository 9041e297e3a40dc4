"""What arrives on a connection, in the words of gRPC."""

from __future__ import annotations

from typing import NamedTuple

from gnomon_server.serving.transport.http2.head import Head


class Whole(NamedTuple):
    """A unary request, complete."""

    stream: int
    head: Head
    message: bytes


class Opened(NamedTuple):
    """A call of any other method began."""

    stream: int
    head: Head


class Message(NamedTuple):
    """A message on an opened call; the session must be told once it is consumed."""

    stream: int
    message: bytes


class HalfClosed(NamedTuple):
    """The client has sent all its messages on an opened call."""

    stream: int


class Cancelled(NamedTuple):
    """A call that had begun is over: the client gave it up, or broke a rule and was answered; answers go nowhere."""

    stream: int
    status: str = "CANCELLED"


class Refused(NamedTuple):
    """A call that the session has answered itself."""

    head: Head
    status: str


Arrival = Whole | Opened | Message | HalfClosed | Cancelled | Refused
