"""Sources: what each feed of a frontend handed over to one life of a worker, beside what arrived there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gnomon_server.control.comparison import Pair
from gnomon_server.wire.counts import FeedCount, SourceCount

# Sources that are kept apart. Without a bound, a frontend that crashes for ever would fill the memory; those whose
# counts are folded together are those that no child has mentioned for the longest time.
KEPT: Final = 1024


class Sent(NamedTuple):
    """What is known to have been selected, and of it what never reached the worker."""

    selected: int = 0
    dropped: int = 0
    primary_error: int = 0

    @property
    def handed(self) -> int:
        """Requests that were given to the feed, and that arrive unless the feed is cut off."""
        return self.selected - self.dropped - self.primary_error

    def plus(self, other: Sent) -> Sent:
        """Returns the sum."""
        return Sent(*(a + b for a, b in zip(self, other, strict=True)))


class Sources:
    """The sources of one epoch; what is known only grows, in whatever order children report."""

    def __init__(self) -> None:
        # The one that was mentioned last stands last.
        self._kept: dict[str, _Source] = {}
        self._folded: dict[Pair, Sent] = {}

    def fed(self, count: FeedCount) -> None:
        """Takes what a frontend says of its feed."""
        part = self._part(count.source, Pair(count.model, count.primary, count.shadow))
        # Counters only grow, so of two reports the one with the greater counts is the later.
        part.sent = Sent(*map(max, part.sent, (count.selected, count.dropped, count.primary_error)))

    def received(self, count: SourceCount) -> None:
        """Takes what the worker says of a source."""
        part = self._part(count.source, Pair(count.model, count.primary, count.shadow))
        part.received = max(part.received, count.received)

    def ended(self, source: str) -> None:
        """Takes that the worker has read a source to its end: what did not arrive never will."""
        self._mention(source).ended = True

    def known(self, pair: Pair) -> Sent:
        """Returns what all sources sent; what was lost on the way is dropped."""
        total = self._folded.get(pair, Sent())
        for source in self._kept.values():
            total = total.plus(source.known(pair))
        return total

    def _part(self, source: str, pair: Pair) -> _Part:
        return self._mention(source).parts.setdefault(pair, _Part())

    def _mention(self, name: str) -> _Source:
        source = self._kept[name] = self._kept.pop(name, _Source())
        if len(self._kept) > KEPT:
            self._fold(self._kept.pop(next(iter(self._kept))))
        return source

    def _fold(self, source: _Source) -> None:
        for pair in source.parts:
            self._folded[pair] = source.known(pair).plus(self._folded.get(pair, Sent()))


@dataclass
class _Part:
    """One pair's requests from one source."""

    sent: Sent = field(default_factory=Sent)
    received: int = 0


@dataclass
class _Source:
    """One feed, as both ends see it."""

    parts: dict[Pair, _Part] = field(default_factory=dict)
    ended: bool = False

    def known(self, pair: Pair) -> Sent:
        part = self.parts.get(pair, _Part())
        # The frontend's report may lag behind the worker's, or never come.
        handed = max(part.sent.handed, part.received)
        lost = handed - part.received if self.ended else 0
        dropped = part.sent.dropped + lost
        return Sent(part.sent.selected - part.sent.handed + handed, dropped, part.sent.primary_error)
