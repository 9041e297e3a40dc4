"""Goals: what gnomon is to reach beside others in one run, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import contenders as c
from alone import ALONE
from plan import ACTIVE, CLOSED, CONNECTED, PACED, Load
from results import Figure, Key, Measurement, Results

SINGLE, *BUSY = CLOSED
TRITON = ("Triton, dynamic batching", "Triton")
SLOW = ("MLServer", "KServe")


def per_second(measurement: Measurement) -> float:
    """Requests per second."""
    return measurement.per_second


def p50(measurement: Measurement) -> float:
    """Median latency."""
    return measurement.p50


def p99(measurement: Measurement) -> float:
    """99th percentile of the latency."""
    return measurement.p99


@dataclass(frozen=True)
class Goal:
    """A ratio of two measurements that has a bound."""

    text: str
    one: Key
    # The strongest of these counts: the one with the best figure.
    others: tuple[Key, ...]
    of: Callable[[Measurement], float]
    bound: float
    # Whether the ratio must not be above the bound, rather than not below.
    most: bool = False

    def ratio(self, results: Results) -> tuple[Figure, str] | None:
        """Returns the ratio and whom it refers to; None if one of both was not measured."""
        figures = [(figure.median, key) for key in self.others if (figure := results.figure(key, self.of))]
        if not figures:
            return None
        strongest = (min if self.most else max)(figures, key=lambda pair: pair[0])[1]
        ratio = results.ratio(self.one, strongest, self.of)
        return (ratio, strongest[2]) if ratio else None

    def met(self, ratio: float) -> bool:
        """Returns whether a ratio is good enough."""
        return ratio <= self.bound if self.most else ratio >= self.bound


def goals() -> Iterator[Goal]:
    """Yields all goals."""
    yield from _throughput("logreg", (1.6, 2.5, 3.0), 20)
    yield from _throughput("boosting", (1.6, 2.5, 3.0), 20)
    yield from _throughput("mlp", (1.4, 1.6, 1.8), None)
    for model in ("logreg", "boosting", "mlp"):
        gnomon = ("closed", model, c.GNOMON.name, SINGLE)
        peers = tuple(("closed", model, name, SINGLE) for name in TRITON)
        yield Goal(f"{model}, 1 in flight: p50 beside Triton", gnomon, peers, p50, 1.0, most=True)
        bare = tuple(("closed", model, one.name, SINGLE) for one in (c.THREADS, c.ASYNCIO))
        yield Goal(f"{model}, 1 in flight: p50 beside a bare server", gnomon, bare, p50, 1.0, most=True)
    loop = ("closed", "transformer", ALONE, SINGLE)
    for load in BUSY:
        gnomon = ("closed", "transformer", c.GNOMON.name, load)
        yield Goal(
            f"transformer, {load.in_flight} in flight: beside onnxruntime alone", gnomon, (loop,), per_second, 0.95
        )
    for model in ("logreg", "boosting", "mlp", "transformer"):
        one, none = ("paced", model, c.EQUAL.name, PACED[0]), ("paced", model, c.GNOMON.name, PACED[0])
        text = f"{model}, everything mirrored, fixed rate"
        yield Goal(f"{text}: p50 beside no shadow", one, (none,), p50, 1.10, most=True)
        yield Goal(f"{text}: p99 beside no shadow", one, (none,), p99, 1.25, most=True)
    for model in ("logreg", "transformer"):
        two, single = ("frontends", model, c.TWO.name, BUSY[-1]), ("frontends", model, c.ONE.name, BUSY[-1])
        yield Goal(f"{model}: two frontends beside one", two, (single,), per_second, 1.7)
    for load in BUSY:
        on, off = ("telemetry", "logreg", c.GNOMON.name, load), ("telemetry", "logreg", c.SILENT.name, load)
        yield Goal(f"telemetry on beside off, {load.in_flight} in flight", on, (off,), per_second, 0.93)
    many: Key = ("connections", "logreg", c.GNOMON.name, Load(ACTIVE, 1, idle=CONNECTED - ACTIVE))
    few: Key = ("connections", "logreg", c.GNOMON.name, Load(ACTIVE, 1))
    yield Goal(f"{CONNECTED} connections beside {ACTIVE}: p99 of the active ones", many, (few,), p99, 1.2, most=True)


def _throughput(model: str, bounds: Sequence[float], slow: float | None) -> Iterator[Goal]:
    for load, bound in zip(BUSY, bounds, strict=True):
        gnomon: Key = ("closed", model, c.GNOMON.name, load)
        best = tuple(("closed", model, name, load) for name in TRITON)
        yield Goal(f"{model}, {load.in_flight} in flight: beside Triton's best", gnomon, best, per_second, bound)
        for name in SLOW if slow else ():
            peer = (("closed", model, name, load),)
            yield Goal(f"{model}, {load.in_flight} in flight: beside {name}", gnomon, peer, per_second, slow or 0)


def table(results: Results) -> Iterator[str]:
    """Yields a line for each goal that was measured."""
    yield "| | beside | goal | median of the rounds (lowest-highest) | |"
    yield "|---|---|---|---|---|"
    for goal in goals():
        if found := goal.ratio(results):
            ratio, beside = found
            bound = f"{'≤' if goal.most else '≥'} {goal.bound:g}"
            verdict = "met" if goal.met(ratio.median) else "not met"
            yield f"| {goal.text} | {beside} | {bound} | {ratio:.2f} | {verdict} |"
