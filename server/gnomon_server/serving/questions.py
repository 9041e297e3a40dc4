"""Questions: what one frontend cannot know or change by itself, asked of control."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from google.protobuf.message import Message

from gnomon_server.errors import Exhausted, GnomonError, Internal, NotReady, error_of
from gnomon_server.serving.transport import Call
from gnomon_server.wire.questions import Answer, Failure, Question, Wanted

log = logging.getLogger(__name__)

# Questions without an answer yet.
MOST: Final = 64

# What an answer means to the client.
Read = Callable[[Any], Message]


class Questions:
    """The open questions of a frontend; belongs to its event loop."""

    def __init__(self, send: Callable[[Question], None]) -> None:
        self._send = send
        self._numbers = count(1)
        self._open: dict[int, tuple[Call, Read]] = {}
        self._closed = False

    def ask(self, call: Call, wanted: Wanted, read: Read) -> None:
        """Asks, and ends the call with what `read` makes of the answer; raises Exhausted or NotReady."""
        if self._closed:
            raise NotReady("server is shutting down")
        if len(self._open) >= MOST:
            raise Exhausted(f"expected at most {MOST} calls of this kind that wait, received one more")
        number = next(self._numbers)
        self._open[number] = (call, read)
        self._send(Question(number, wanted))

    def answered(self, answer: Answer) -> None:
        """Ends the call that waits for this answer; never raises."""
        call, read = self._open.pop(answer.number)
        try:
            if isinstance(answer.given, Failure):
                raise error_of(answer.given.status, answer.given.text)
            call.answer(read(answer.given).SerializeToString())
        except GnomonError as error:
            call.fail(error)
        except Exception:
            log.exception("%s failed", call.method)
            call.fail(Internal("internal error"))

    def close(self) -> None:
        """Ends every call that waits: control listens no more."""
        self._closed = True
        waiting, self._open = self._open, {}
        for call, _ in waiting.values():
            call.fail(NotReady("server is shutting down"))
