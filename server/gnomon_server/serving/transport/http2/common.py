"""What the connections of one transport share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gnomon_server.serving.transport import Stream, Unary
from gnomon_server.serving.transport.http2.call import Http2Call
from gnomon_server.serving.transport.http2.deadlines import Deadlines
from gnomon_server.serving.transport.http2.limits import Limits
from gnomon_server.serving.transport.http2.passes import Passes


@dataclass(frozen=True)
class Common:
    """One of it a transport."""

    # By path, as it comes: the method's name and handler; and the paths of those that take one message.
    handlers: Mapping[bytes, tuple[str, Unary | Stream]]
    unary: frozenset[bytes]
    limits: Limits
    deadlines: Deadlines[Http2Call]
    passes: Passes
    # What every connection reads into; a new one for each would cost more than the reading.
    buffer: memoryview
