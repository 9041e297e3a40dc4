"""Answers: what frontends ask on behalf of their clients, from what control knows."""

from __future__ import annotations

import logging

from gnomon_server.control.desired import Request
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.memory import Memory
from gnomon_server.control.operations import Operations
from gnomon_server.errors import GnomonError
from gnomon_server.wire.questions import (
    Answer,
    Counts,
    CountsWanted,
    Done,
    Failure,
    Given,
    Index,
    IndexWanted,
    ListedVersion,
    LoadWanted,
    Question,
    RegionsWanted,
    RegisterWanted,
    Shared,
    UnloadWanted,
    UnregisterWanted,
    Wanted,
)

log = logging.getLogger(__name__)


class Answers:
    """Answers on control's event loop."""

    def __init__(self, operations: Operations, fleet: Fleet) -> None:
        self._operations = operations
        self._fleet = fleet
        self._memory = Memory(fleet)

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

    async def _give(self, wanted: Wanted) -> Given:
        if isinstance(wanted, CountsWanted):
            return Counts((await self._fleet.frontends.counts_of_now()).inferences)
        if isinstance(wanted, IndexWanted):
            return self._index()
        if isinstance(wanted, RegionsWanted):
            return Shared(self._memory.regions(wanted.name))
        await self._change(wanted)
        return Done()

    async def _change(self, wanted: LoadWanted | UnloadWanted | RegisterWanted | UnregisterWanted) -> None:
        if isinstance(wanted, RegisterWanted):
            await self._memory.register(wanted.region)
        elif isinstance(wanted, UnregisterWanted):
            await self._memory.unregister(wanted.name)
        elif isinstance(wanted, LoadWanted):
            await self._operations.load(_request(wanted))
        else:
            await self._operations.unload(_request(wanted))

    def _index(self) -> Index:
        return Index(
            tuple(
                self._listed(model, version, route.role(version))
                for model, route in sorted(self._operations.routes.items())
                for version in self._operations.versions(model)
            )
        )

    def _listed(self, model: str, version: int, role: str) -> ListedVersion:
        if role in ("", "shadow") and self._fleet.named(model, version):
            state, role = self._fleet.frontend_state(model, version), "named"
        else:
            state = self._fleet.standing(model, version)
        return ListedVersion(model, version, role, state.state, state.reason)


def _request(wanted: LoadWanted | UnloadWanted) -> Request:
    return Request(wanted.model, wanted.actor, "asked for by a client")
