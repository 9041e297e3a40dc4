"""Strays: labels that came to a server that does not know their requests, as servers pass them to each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.wire.labels import Label, LabelTally


@dataclass(frozen=True)
class Strays:
    """Labels of one pair that go together; every one is held by one server, or by the store."""

    # No two have the same.
    id: str
    pair: Pair
    labels: tuple[Label, ...]
    # The servers that do not know their requests.
    asked: tuple[str, ...] = ()
    # Seconds since the epoch, by the store's clock, since when they are passed on; 0: they are new.
    since: float = 0.0


@dataclass(frozen=True)
class Handed:
    """Strays that a server is done with, under whose name they stand in the store if they come from there."""

    old: str
    # Without labels if all of them were joined.
    left: Strays


@dataclass(frozen=True)
class Passed:
    """What came of passing strays on."""

    # This server holds them now, and is to look for their requests.
    taken: tuple[Strays, ...] = ()
    # There is nobody else to ask: nobody knows their requests.
    unknown: tuple[Strays, ...] = ()
    # Of what it took without being told, and the store has again.
    given_back: tuple[Pair, ...] = ()


def counted(rows: Iterable[Comparison], passed: Passed) -> list[Comparison]:
    """Returns totals together with the labels that their server has got, and with those of unknown requests."""
    sums = {pair: Comparison(pair) for pair in passed.given_back} | {row.pair: row for row in rows}
    parts = [
        *((one.pair, LabelTally(waiting=len(one.labels))) for one in passed.taken),
        *((one.pair, LabelTally(unknown=len(one.labels))) for one in passed.unknown),
    ]
    for pair, tally in parts:
        sums[pair] = sums.get(pair, Comparison(pair)).plus(Comparison(pair, labels=tally))
    return list(sums.values())
