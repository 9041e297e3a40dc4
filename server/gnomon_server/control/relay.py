"""The relay: has totals stored, and passes labels on whose requests this server does not know.

What a server holds is waiting in its totals, and the store takes both in one transaction: each label is counted once,
also where a server is killed or the store is away.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from gnomon_server.control.ledger import Ledger
from gnomon_server.control.store import Store
from gnomon_server.control.strays import Handed, Strays
from gnomon_server.control.worker import Adopting
from gnomon_server.wire.labels import Label

# Labels that go together, and those that are held while the store is away.
TOGETHER: Final = 1000
MOST_HELD: Final = 100_000


class Knows(Protocol):
    """What knows the requests that this server answered."""

    def adopt(self, model: str, version: int, labels: Sequence[Label], left: Adopting) -> None:
        """Has labels joined; tells `left` which are still nobody's, once what it counts of the others was heard."""
        ...


class Relay:
    """Belongs to control's event loop."""

    def __init__(self, store: Store, ledger: Ledger, fleet: Knows) -> None:
        self._store = store
        self._ledger = ledger
        self._fleet = fleet
        # Whose requests are being looked for, by the names that the store has for them.
        self._asking: set[str] = set()
        self._leaving: list[Handed] = []
        self._flushing: asyncio.Task[None] | None = None

    async def flush(self, last: bool = False) -> None:
        """Stores the totals, passes on what is to be, and takes what others passed on unless it is the `last` time.

        Raises as the store does, which takes all of it or nothing. One that is cancelled goes on by itself, as nobody
        stops the thread that stores, and the next one waits for it.
        """
        if self._flushing is not None:
            await asyncio.gather(self._flushing, return_exceptions=True)
        self._flushing = asyncio.create_task(self._flush(last))
        await asyncio.shield(self._flushing)

    async def hear(self) -> None:
        """Takes what other servers stored; raises as the store does."""
        self._ledger.counted_elsewhere(await asyncio.to_thread(self._store.tallies_elsewhere))

    async def _flush(self, last: bool) -> None:
        self._collect()
        leaving, self._leaving = self._leaving, []
        self._hold((one.left for one in leaving), -1)
        rows, held = self._ledger.comparisons(), None if last else tuple(self._asking)
        try:
            passed = await asyncio.to_thread(self._store.save_tallies, rows, leaving, held)
        except BaseException:
            self._hold((one.left for one in leaving), 1)
            self._leaving = [*leaving, *self._leaving]
            raise
        for strays in passed.unknown:
            self._ledger.hold(strays.pair, unknown=len(strays.labels))
        self._hold(passed.taken, 1)
        for strays in passed.taken:
            self._asking.add(strays.id)
            self._fleet.adopt(strays.pair.model, strays.pair.shadow, strays.labels, partial(self._left, strays))

    def _collect(self) -> None:
        """Takes over what the workers do not know; where that is too much, nobody does."""
        held = sum(len(one.left.labels) for one in self._leaving)
        for pair, labels in self._ledger.take_strays():
            held += len(labels)
            if held > MOST_HELD:
                self._ledger.hold(pair, waiting=-len(labels), unknown=len(labels))
                continue
            for start in range(0, len(labels), TOGETHER):
                new = Strays(uuid.uuid4().hex, pair, labels[start : start + TOGETHER])
                self._leaving.append(Handed("", new))

    def _left(self, strays: Strays, labels: Sequence[Label]) -> None:
        """Takes which labels are still nobody's: they go on, under another name."""
        self._ledger.hold(strays.pair, waiting=len(labels) - len(strays.labels))
        self._asking.remove(strays.id)
        self._leaving.append(Handed(strays.id, replace(strays, id=uuid.uuid4().hex, labels=tuple(labels))))

    def _hold(self, held: Iterable[Strays], sign: int) -> None:
        for strays in held:
            self._ledger.hold(strays.pair, waiting=sign * len(strays.labels))
