"""Labels: what became known of requests after they were answered, and what both versions lost by it."""

from __future__ import annotations

import msgspec

from gnomon_server.wire.plans import Message


class Label(msgspec.Struct, frozen=True, array_like=True):
    """The truth about one request."""

    # The request's id.
    id: str
    # One a row, as text.
    labels: tuple[str, ...]
    # When it became known, in nanoseconds since the epoch; 0: now.
    time_ns: int = 0


class Labels(Message, frozen=True, tag="labels"):
    """Labels for a shadow worker, which answers with the same number."""

    number: int
    labels: tuple[Label, ...]


class Adopt(Message, frozen=True, tag="adopt"):
    """Labels that another server passed on, for a shadow worker, which answers with the same number."""

    number: int
    labels: tuple[Label, ...]


class Labelled(Message, frozen=True, tag="labelled"):
    """What became of each of them; the worker's report of it was sent before."""

    number: int
    joined: int
    # No request with this id is known yet.
    waiting: int
    late: int
    duplicate: int
    refused: int
    # Of the first that were refused.
    reasons: tuple[str, ...]


class CohortCounts(msgspec.Struct, frozen=True):
    """Requests of one span of time, as observations of what the shadow loses more than the primary, over SYM64."""

    # Nanoseconds since the epoch, of which no request in it is younger.
    until_ns: int
    # In blocks that are full, and those of them that have a label.
    requests: int
    labelled: int
    # With what is not known at its worst for the shadow, and at its best.
    up: tuple[float, ...]
    lo: tuple[float, ...]

    def plus(self, other: CohortCounts) -> CohortCounts:
        """Returns two cohorts as one, which is due when the younger one is."""
        return CohortCounts(
            until_ns=max(self.until_ns, other.until_ns),
            requests=self.requests + other.requests,
            labelled=self.labelled + other.labelled,
            up=tuple(a + b for a, b in zip(self.up, other.up, strict=True)),
            lo=tuple(a + b for a, b in zip(self.lo, other.lo, strict=True)),
        )


class LabelTally(msgspec.Struct, frozen=True):
    """What labels say of one pair; cumulative."""

    # Names the output and all that makes losses comparable; empty without a request.
    basis: str = ""
    output: str = ""
    # "label", "absolute" or "squared".
    loss: str = ""
    # What a loss of 1 is, in the unit of the output; 1 for labels.
    scale: float = 1.0
    # Requests that were offered to the join.
    requests: int = 0
    # Labels by what became of them; those that conflict are among the duplicates.
    joined: int = 0
    late: int = 0
    duplicate: int = 0
    conflicting: int = 0
    refused: int = 0
    unknown: int = 0
    # On the way to one of these.
    waiting: int = 0
    # Passed on to other servers, which count them.
    forwarded: int = 0
    # Requests that were forgotten before a label came.
    forgotten: int = 0
    # Rows with a label; of these, by who is right, where the loss is that of labels.
    rows: int = 0
    both_right: int = 0
    primary_right: int = 0
    shadow_right: int = 0
    both_wrong: int = 0
    # Sums over the rows, each loss in [0, 1].
    primary_loss: float = 0.0
    shadow_loss: float = 0.0
    # Seconds from the answers to the labels, summed over the requests that have one.
    delay: float = 0.0
    # Oldest first; empty where labels are not judged.
    cohorts: tuple[CohortCounts, ...] = ()

    @property
    def received(self) -> int:
        """Labels that were received."""
        return self.joined + self.late + self.duplicate + self.refused + self.unknown + self.waiting


class PairLabels(msgspec.Struct, frozen=True):
    """The tally of one primary and its shadow."""

    model: str
    primary: int
    shadow: int
    tally: LabelTally
    # Labels whose requests are not known here, to be passed on; sent only once.
    strays: tuple[Label, ...] = ()
