"""Answers: what frontends ask on behalf of their clients, from what control knows."""

from __future__ import annotations

import logging

from gnomon_server.control.fleet import Fleet
from gnomon_server.errors import GnomonError
from gnomon_server.wire.messages import Answer, Counts, Failure, Given, Question, Wanted

log = logging.getLogger(__name__)


class Answers:
    """Answers on control's event loop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def answer(self, question: Question) -> Answer:
        """Returns the answer to a question; an error is one too."""
        try:
            given = await self._give(question.wanted)
        except GnomonError as error:
            given = Failure(error.status, str(error))
        except Exception:
            log.exception("%s failed", type(question.wanted).__name__)
            given = Failure("INTERNAL", "internal error")
        return Answer(question.number, given)

    async def _give(self, _: Wanted) -> Given:
        return Counts((await self._fleet.counts_of_now()).inferences)
