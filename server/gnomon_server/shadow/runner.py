"""The runner: takes records from the backlog, tries the shadow on them in batches and says what became of each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Final

import numpy as np

from gnomon_server.shadow.backlog import Backlog
from gnomon_server.shadow.batching import Batch, group, parse, unread
from gnomon_server.shadow.comparators import Flags
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.shadow.outcome import DROPPED, NOT_COMPARABLE, Ended, Uncompared
from gnomon_server.shadow.sequences import Lost
from gnomon_server.shadow.trial import Trial
from gnomon_server.wire.record import Record

# Seconds that a first record waits for company: a run costs many times what a row in it does.
GATHER: Final = 0.1


class Runner:
    """Drives one shadow; owned by an event loop, which stays responsive while the shadow is stuck in its thread.

    `settle` hears once of every record that was taken, from the event loop: the records of a batch in the order in
    which they ran, and what became of them.
    """

    def __init__(
        self,
        trial: Trial,
        fits: Fits,
        backlog: Backlog,
        batch_rows: int,
        executor: Executor,
        settle: Callable[[Sequence[Record], Sequence[Ended]], None],
    ) -> None:
        self._trial = trial
        self._fits = fits
        self._backlog = backlog
        self._batch_rows = batch_rows
        self._executor = executor
        self._settle = settle
        self._batches: deque[Batch] = deque()
        self._lost = Lost()

    async def run(self) -> None:
        """Works until the backlog is closed and empty."""
        while await self._backlog.ready(GATHER):
            self._accept(self._backlog.take(self._batch_rows))
            while self._batches:
                await self._try_first()

    @property
    def unsettled(self) -> int:
        """How many records were taken and have no outcome yet."""
        return sum(len(batch.requests) for batch in self._batches)

    def lose(self, records: Sequence[Record]) -> None:
        """Takes that records which waited in the backlog will not run, nor what follows them in their sequences."""
        self._lost.add(records)

    def abandon(self) -> list[Record]:
        """Gives back the records that have no outcome, once `run` has been cancelled."""
        abandoned = [record for batch in self._batches for record in batch.records]
        self._batches.clear()
        return abandoned

    def _accept(self, records: list[Record]) -> None:
        parsed = [parse(record, self._fits) for record in records]
        strangers = [record for record, request in zip(records, parsed, strict=True) if request is None]
        if strangers:
            self._settle(strangers, [Uncompared(strangers, NOT_COMPARABLE, inputs=unread(strangers))])
        self._batches.extend(group([request for request in parsed if request is not None], self._batch_rows))

    async def _try_first(self) -> None:
        """Tries the first batch, which stays unsettled until it has an outcome, whatever happens meanwhile."""
        batch = self._batches[0]
        following = np.array([self._lost.follows(record) for record in batch.records], np.bool_)
        if following.any():
            self._leave_out(batch, following)
            return
        ended = await asyncio.get_running_loop().run_in_executor(self._executor, self._trial.of, batch)
        self._batches.popleft()
        if ended is None:
            self._batches.extendleft(reversed(batch.singles()))
            return
        for one in ended:
            if isinstance(one, Uncompared) and one.never_ran:
                self._lost.add(one.records)
        self._settle(batch.records, ended)

    def _leave_out(self, batch: Batch, following: Flags) -> None:
        """Drops requests of sequences that lost an earlier one."""
        dropped = batch.only(following).records
        rest = batch.only(~following)
        self._batches.popleft()
        if rest.requests:
            self._batches.appendleft(rest)
        self._settle(dropped, [Uncompared(dropped, DROPPED)])
