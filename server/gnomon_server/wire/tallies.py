"""What a shadow worker finds between a primary and its shadow."""

from __future__ import annotations

import msgspec

from gnomon_server.wire.counts import HistogramCounts, SketchCounts


class FlipTally(msgspec.Struct, frozen=True):
    """Rows for which the primary decided one thing and the shadow another."""

    before: str
    after: str
    rows: int
    # Of all rows together.
    cost: float


class OutputTally(msgspec.Struct, frozen=True):
    """Rows of one output, compared."""

    output: str
    comparator: str
    tolerance: float
    rows: int
    disagreements: int
    # Sum and maximum of the rows' divergences.
    divergence_sum: float
    divergence_max: float
    # Of the rows' divergences, over DIVERGENCE_BOUNDS.
    histogram: HistogramCounts
    flips: tuple[FlipTally, ...] = ()
    # Rows in which the primary's output is no value that the comparator can take: NaN, or no probabilities.
    unfit: int = 0
    # What arithmetic alone explains of a row's divergence, and the sum of what exceeds it.
    floor: float = 0.0
    net_sum: float = 0.0


class RepeatedOutput(msgspec.Struct, frozen=True):
    """Rows of one output that were run again, and their divergences from what the primary had answered."""

    output: str
    rows: int
    own_divergence_sum: float
    shadow_divergence_sum: float


class RepeatTally(msgspec.Struct, frozen=True):
    """Requests that were run again, alone, on the primary's own version and on the shadow."""

    requests: int = 0
    # Requests in which the primary's own version disagrees with the primary anywhere.
    own_disagreeing: int = 0
    # Sums over the requests of the share of rows that agree with what the primary had answered.
    own_agreement_sum: float = 0.0
    shadow_agreement_sum: float = 0.0
    # Of the shadow's disagreement beyond the own one, a request each, over SYM64; empty without a request.
    excess: tuple[float, ...] = ()
    outputs: tuple[RepeatedOutput, ...] = ()
    own_times: SketchCounts = SketchCounts((), 0.0)
    shadow_times: SketchCounts = SketchCounts((), 0.0)


class MetricCounts(msgspec.Struct, frozen=True):
    """Observations of one metric, binned over the knots of its kind."""

    name: str
    # With whatever is missing at its worst for the shadow, and at its best.
    up: tuple[float, ...]
    lo: tuple[float, ...]


class Serial(msgspec.Struct, frozen=True):
    """Sums over the blocks of a metric, in their order."""

    blocks: int = 0
    total: float = 0.0
    squares: float = 0.0
    # Neighbouring blocks, and the sum of their products.
    pairs: int = 0
    products: float = 0.0


class ShareCounts(msgspec.Struct, frozen=True):
    """Observations of the disagreement of requests that were selected from one share, binned over GEO32."""

    # In (0, 1].
    sample: float
    up: tuple[float, ...]
    lo: tuple[float, ...]


class Observed(msgspec.Struct, frozen=True):
    """What a verdict may rest on; counts with the same basis add up."""

    # Names comparators, tolerances and what an observation is; empty where nothing was observed.
    basis: str = ""
    # Requests of one observation.
    block: int = 1
    # Settled requests that are accounted for; the others are in a block that is not finished.
    requests: int = 0
    # Of these: nothing in them was new.
    repeated: int = 0
    # Rows of which the inputs are known, and those of them that were met before.
    rows: int = 0
    repeated_rows: int = 0
    # Of the disagreement.
    serial: Serial = Serial()
    metrics: tuple[MetricCounts, ...] = ()
    # Of the disagreement, which is all of it together, the largest share first.
    shares: tuple[ShareCounts, ...] = ()


class StratumTally(msgspec.Struct, frozen=True):
    """What was found of the requests of one pair that were selected from one share."""

    # In (0, 1].
    sample: float
    # Requests that reached the worker and have an outcome, and of these those that were compared.
    received: int
    compared: int
    # Over the compared ones, as of PairTally.
    agreement_sum: float
    disagreeing: int


class PairTally(msgspec.Struct, frozen=True):
    """What one worker found between one primary and its shadow."""

    model: str
    primary: int
    shadow: int
    # Requests by outcome.
    compared: int
    shadow_error: int
    timeout: int
    dropped: int
    not_comparable: int
    # Sum over compared requests of the share of rows that agree, and how many requests disagree anywhere.
    agreement_sum: float
    disagreeing: int
    outputs: tuple[OutputTally, ...]
    # Seconds of run per request: the shadow's share of its coalesced batch, and the primary's.
    shadow_runs: HistogramCounts
    primary_runs: HistogramCounts
    observed: Observed = Observed()
    # The same, finer.
    shadow_times: SketchCounts = SketchCounts((), 0.0)
    primary_times: SketchCounts = SketchCounts((), 0.0)
    repeats: RepeatTally = RepeatTally()
    strata: tuple[StratumTally, ...] = ()


class KeptTensor(msgspec.Struct, frozen=True):
    """One tensor of a request that is kept."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    # As raw contents travel; None where they are withheld.
    raw: bytes | None


class KeptRequest(msgspec.Struct, frozen=True):
    """A request on which the shadow disagrees."""

    primary: int
    # By which some are chosen among many, the least first; it depends on nothing but the request's span.
    priority: int
    # 16 bytes.
    trace_id: bytes
    # Nanoseconds since the epoch: when the primary had answered.
    time_ns: int
    # (output, divergence) of the request's worst row.
    divergences: tuple[tuple[str, float], ...]
    # Rows of the request; the tensors hold such as disagree.
    rows: int
    inputs: tuple[KeptTensor, ...]
    primary_outputs: tuple[KeptTensor, ...]
    shadow_outputs: tuple[KeptTensor, ...]

    @property
    def size(self) -> int:
        """Bytes of all contents."""
        return sum(len(one.raw or b"") for one in (*self.inputs, *self.primary_outputs, *self.shadow_outputs))


class SegmentFound(msgspec.Struct, frozen=True):
    """A slice of the input space that holds more than its share of the disagreement."""

    conditions: tuple[str, ...]
    # Shares of all rows, and of those that disagree.
    rows: float
    disagreements: float
    # Disagreeing rows among those inside, and among those outside.
    rate: float
    rate_outside: float
    # Probability that chance alone would have it stand out as much.
    p: float
    # Of rows in it that disagree, 16 bytes each.
    trace_ids: tuple[bytes, ...]


class SegmentSearch(msgspec.Struct, frozen=True):
    """One search for segments; the newest one says most."""

    primary: int
    # Rows that were looked at, and those of them that disagree.
    rows: int
    disagreeing: int
    found: tuple[SegmentFound, ...]
