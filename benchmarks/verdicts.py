"""Wrong verdicts and the requests that a verdict takes, on simulated traffic, looking after every batch.

    python benchmarks/verdicts.py [--runs 4000] [--seed 1]

At the tolerance a shadow must hardly ever be promoted, however often one looks. Beside gnomon's engine stands what it
replaces: a Wilson interval of 95 % that is looked at again and again, from 1,000 requests on. Shares of runs are shown
with their own interval. Decisions are found in bulk, and three of every hundred runs are checked against the engine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from math import log, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gnomon_server.control.evidence import Evidence
from gnomon_server.control.verdict import KEEP_WATCHING, PROMOTE, verdict
from gnomon_server.settings import Policy
from gnomon_server.statistics.evidence import factors_lo, factors_up, log_lo, log_up
from gnomon_server.statistics.knots import BERN, GEO32, TERN, Floats, Knots
from gnomon_server.wire.metrics import DISAGREEMENT
from gnomon_server.wire.tallies import MetricCounts, Observed, ShareCounts

TOLERANCE: Final = 0.01
ALPHA: Final = 0.05
THRESHOLD: Final = log(1 / ALPHA)
# Requests between two looks, where each request is an observation.
BATCH: Final = 10
# The naive test: from how many requests on, and the normal quantile of 95 %.
LEAST: Final = 1000
Z: Final = 1.96
# Runs that are held at once.
CHUNK: Final = 100


@dataclass(frozen=True)
class Looks:
    """What there is to see at each look: float64[runs, looks]."""

    # Mean of what came since the look before, and how many observations that is.
    values: Floats
    weights: Floats
    # That were sent until then.
    requests: Floats
    knots: Knots
    # The tolerance, as a mean over the knots.
    at: float = TOLERANCE


Traffic = Callable[[np.random.Generator, int], Looks]


@dataclass(frozen=True)
class Decided:
    """How many requests each run took; infinite where it was never decided. float64[runs]."""

    promoted: Floats
    rejected: Floats

    @property
    def at(self) -> Floats:
        """The requests until the first decision."""
        return np.minimum(self.promoted, self.rejected)

    def promotes(self) -> float:
        """Returns the share of runs that were promoted."""
        return float((self.promoted < self.rejected).mean())

    def rejects(self) -> float:
        """Returns the share of runs that were rejected."""
        return float((self.rejected < self.promoted).mean())


def labels(share: float, requests: int) -> Traffic:
    """Independent requests that agree or not, each of them an observation."""

    def looks(generator: np.random.Generator, runs: int) -> Looks:
        values = generator.binomial(BATCH, share, (runs, requests // BATCH)) / BATCH
        return Looks(values, np.full_like(values, BATCH), _every(BATCH, values), BERN)

    return looks


def distances(share: float, requests: int) -> Traffic:
    """Independent requests of which one in twenty differs, by a distance that is 20 times the mean on average."""

    def looks(generator: np.random.Generator, runs: int) -> Looks:
        shape = (runs, requests)
        size = generator.beta(2, 2 / (20 * share) - 2, shape)
        values = np.where(generator.random(shape) < 0.05, size, 0.0)
        return Looks(values, np.ones_like(values), _every(1, values), GEO32)

    return looks


def bursts(share: float, requests: int, length: int, block: int) -> Traffic:
    """Requests of which 30 % disagree in some times, `length` requests long on average, and none in the others."""

    def looks(generator: np.random.Generator, runs: int) -> Looks:
        bad = share / 0.3
        # Two states: it ends with 1/length, and begins so often that the share of time in it is `bad`.
        begin, end = bad / (1 - bad) / length, 1 / length
        state = generator.random(runs) < bad
        ones = np.empty((runs, requests), np.bool_)
        changes, flips = generator.random((requests, runs)), generator.random((requests, runs))
        for at in range(requests):
            state = np.where(state, changes[at] >= end, changes[at] < begin)
            ones[:, at] = state & (flips[at] < 0.3)
        values = ones.reshape(runs, -1, block).mean(axis=2)
        return Looks(values, np.ones_like(values), _every(block, values), GEO32)

    return looks


def blocks(share: float, requests: int, block: int) -> Traffic:
    """Independent requests that agree or not, observed in blocks."""

    def looks(generator: np.random.Generator, runs: int) -> Looks:
        values = generator.binomial(block, share, (runs, requests // block)) / block
        return Looks(values, np.ones_like(values), _every(block, values), GEO32)

    return looks


def repeats(share: float, requests: int, times: int, dedupe: bool) -> Traffic:
    """Inputs that are each sent `times` times on average, with the same answers each time."""

    def looks(generator: np.random.Generator, runs: int) -> Looks:
        shape = (runs, requests // times)
        values = (generator.random(shape) < share).astype(np.float64)
        sent = generator.geometric(1 / times, shape).astype(np.float64)
        return Looks(values, np.ones_like(sent) if dedupe else sent, sent.cumsum(axis=1), BERN)

    return looks


def feedback(requests: int, days: int, in_order: bool) -> Traffic:
    """Labels of payments, a twentieth of them frauds: what the shadow loses more, at the tolerance on the average.

    It misses more frauds than its primary and raises fewer false alarms. A good payment is known as one after a day, a
    fraud after thirty. `in_order` looks at requests in their own order, otherwise in that of their labels.
    """

    def looks(generator: np.random.Generator, runs: int) -> Looks:
        shape = (runs, requests)
        fraud, lots = generator.random(shape) < 0.05, generator.random(shape)
        # 0.05 * 0.39 - 0.95 * 0.01 is the tolerance.
        excess = np.where(fraud, lots < 0.39, -1.0 * (lots < 0.01))
        if not in_order:
            known = np.linspace(0, days, requests) + np.where(fraud, 30.0, 1.0)
            excess = np.take_along_axis(excess, known.argsort(axis=1, kind="stable"), axis=1)
        values = (1 + excess) / 2
        return Looks(values, np.ones_like(values), _every(1, values), TERN, (1 + TOLERANCE) / 2)

    return looks


def _every(requests: int, values: Floats) -> Floats:
    return np.broadcast_to(requests * np.arange(1.0, values.shape[1] + 1), values.shape)


def engine(looks: Looks) -> Decided:
    """Decides as gnomon does, at every look."""
    promoted = _first(looks, _evidence(looks, *factors_up(looks.knots, looks.at)) >= THRESHOLD)
    rejected = _first(looks, _evidence(looks, *factors_lo(looks.knots, looks.at)) >= THRESHOLD)
    _check(looks, promoted, rejected)
    return Decided(promoted, rejected)


def naive(looks: Looks) -> Decided:
    """Decides by a Wilson interval at every look."""
    n = looks.weights.cumsum(axis=1)
    share = (looks.values * looks.weights).cumsum(axis=1) / n
    middle = share + Z * Z / (2 * n)
    half = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale, ripe = 1 + Z * Z / n, looks.requests >= LEAST
    promoted = _first(looks, ripe & ((middle + half) / scale <= TOLERANCE))
    return Decided(promoted, _first(looks, ripe & ((middle - half) / scale > TOLERANCE)))


def _evidence(looks: Looks, weights: Floats, factors: Floats) -> Floats:
    """Returns log E at every look; interpolating a factor between knots is what binning the value does."""
    points, total = looks.knots.array, np.zeros_like(looks.values)
    for weight, factor in zip(weights, factors, strict=True):
        won = np.interp(looks.values, points, factor)
        won *= looks.weights
        np.cumsum(won, axis=1, out=won)
        # Beyond the threshold it is decided; the exponential must not overflow.
        total += np.exp(np.minimum(won + weight, 300.0))
    return np.log(total)


def _first(looks: Looks, decided: NDArray[np.bool_]) -> Floats:
    """Returns the requests at the first look at which a run was decided."""
    at = decided.argmax(axis=1)
    rows = np.arange(len(at))
    return np.where(decided[rows, at], looks.requests[rows, at], np.inf)


def thinned(runs: int, seed: int, weighted: bool) -> tuple[float, float]:
    """Returns how often a shadow at the tolerance is promoted and rejected where its worst hours are mirrored least.

    Half of the traffic comes by day, when 1.9 % disagree and an eighth is mirrored, and by night 0.1 % do and all is.
    """
    policy = Policy(tolerance=TOLERANCE, block=1, min_requests=1, min_duration=0.0)
    generator, start = np.random.default_rng(seed), datetime(2026, 1, 1, tzinfo=UTC)
    promoted = rejected = 0
    for _ in range(runs):
        found = np.zeros((2, 2))
        for _ in range(60):
            for row, (share, rate) in enumerate(((1.0, 0.001), (0.125, 0.019))):
                selected = generator.binomial(500, share)
                differ = generator.binomial(selected, rate)
                found[row] += selected - differ, differ
            decision = verdict(Evidence(_of_shares(found, weighted), since=start), policy, start).decision
            if decision != KEEP_WATCHING:
                promoted, rejected = promoted + (decision == PROMOTE), rejected + (decision != PROMOTE)
                break
    return promoted / runs, rejected / runs


def _of_shares(found: Floats, weighted: bool) -> Observed:
    sides = []
    for agree, differ in found:
        counts = GEO32.none()
        counts[0], counts[-1] = agree, differ
        sides.append(counts)
    shares = [ShareCounts(p, tuple(c.tolist()), tuple(c.tolist())) for p, c in zip((1.0, 0.125), sides, strict=True)]
    total = tuple(np.sum(sides, axis=0).tolist())
    metrics = (MetricCounts(DISAGREEMENT, total, total),)
    return Observed("basis", 1, round(found.sum()), metrics=metrics, shares=tuple(shares) if weighted else ())


def _check(looks: Looks, promoted: Floats, rejected: Floats) -> None:
    """Asks the engine about a few runs: decided by the counts of that look, and not by those before."""
    for row in range(min(3, len(promoted))):
        for at, log_evidence in ((promoted[row], log_up), (rejected[row], log_lo)):
            if np.isinf(at):
                continue
            end = int((looks.requests[row] <= at).sum())
            for last, expected in ((end, True), (end - 1, False)):
                values, times = looks.values[row, :last], looks.weights[row, :last]
                counts = sum(
                    (times[i] * looks.knots.counts(values[i : i + 1]) for i in range(last)), looks.knots.none()
                )
                if (log_evidence(looks.knots, counts, looks.at) >= THRESHOLD - 1e-9) != expected:
                    raise AssertionError(f"the engine says otherwise after {at:.0f} requests")


def simulated(traffic: Traffic, decide: Callable[[Looks], Decided], runs: int, seed: int) -> Decided:
    """Returns what became of runs of some traffic."""
    parts = [decide(traffic(generator, count)) for generator, count in _chunks(runs, seed)]
    promoted, rejected = (np.concatenate([getattr(part, side) for part in parts]) for side in ("promoted", "rejected"))
    return Decided(promoted, rejected)


def _chunks(runs: int, seed: int) -> Iterator[tuple[np.random.Generator, int]]:
    for number, start in enumerate(range(0, runs, CHUNK)):
        yield np.random.default_rng([seed, number]), min(CHUNK, runs - start)


def with_interval(share: float, runs: int) -> str:
    """Returns a share of runs with its Wilson interval of 95 %."""
    middle, half = share + Z * Z / (2 * runs), Z * sqrt(share * (1 - share) / runs + Z * Z / (4 * runs * runs))
    scale = 1 + Z * Z / runs
    return f"{100 * share:5.1f} % ({100 * (middle - half) / scale:4.1f} - {100 * (middle + half) / scale:4.1f})"


def errors(runs: int, seed: int) -> None:
    """Prints how often a shadow at and beyond the tolerance is promoted."""
    some, few = max(100, runs // 4), max(100, runs // 10)
    rows: list[tuple[str, Traffic, Callable[[Looks], Decided], int]] = [
        ("labels, gnomon", labels(TOLERANCE, 40_000), engine, runs),
        ("labels, repeated Wilson", labels(TOLERANCE, 40_000), naive, runs),
        ("distances, gnomon", distances(TOLERANCE, 10_000), engine, few),
        ("blocks of 50, gnomon", blocks(TOLERANCE, 200_000, 50), engine, runs),
        ("each input 10 times, counted once", repeats(TOLERANCE, 100_000, 10, True), engine, some),
        ("each input 10 times, counted each time", repeats(TOLERANCE, 100_000, 10, False), engine, some),
        ("bursts of 10, blocks of 50", bursts(TOLERANCE, 50_000, 10, 50), engine, few),
        ("bursts of 10, each request", bursts(TOLERANCE, 50_000, 10, 1), engine, few),
        ("late frauds, labels that are due", feedback(40_000, 40, True), engine, few),
        ("late frauds, labels as they come", feedback(40_000, 40, False), engine, few),
        ("2 % in bursts of 50, blocks of 50", bursts(2 * TOLERANCE, 50_000, 50, 50), engine, few),
        ("2 % in bursts of 50, each request", bursts(2 * TOLERANCE, 50_000, 50, 1), engine, few),
    ]
    print(f"true disagreement at the tolerance of {TOLERANCE:.0%}, alpha {ALPHA:.0%} a side, in % of runs with 95 %")
    print(f"{'':<40}{'runs':>6}{'promoted':>24}{'rejected':>24}")
    for name, traffic, decide, number in rows:
        found = simulated(traffic, decide, number, seed)
        shares = (with_interval(share, number) for share in (found.promotes(), found.rejects()))
        print(f"{name:<40}{number:>6}" + "".join(f"{shown:>24}" for shown in shares), flush=True)
    for name, weighted in (("worst hours thinned, weighted", True), ("worst hours thinned, as selected", False)):
        shown = "".join(f"{with_interval(share, some):>24}" for share in thinned(some, seed, weighted))
        print(f"{name:<40}{some:>6}{shown}", flush=True)


def speed(runs: int, seed: int) -> None:
    """Prints how many requests a decision takes."""
    few = max(100, runs // 10)
    print(f"\nmedian requests to a decision at a tolerance of {TOLERANCE:.0%} (wrong decisions), {few} runs")
    print(f"{'true disagreement':<24}{'each request':>24}{'blocks of 50':>24}")
    for share in (0.0, 0.001, 0.005, 0.0075, 0.0125, 0.02, 0.05):
        each = simulated(labels(share, 60_000), engine, few, seed)
        block = simulated(blocks(share, 400_000, 50), engine, few, seed)
        shown = "".join(f"{_median(found, share):>24}" for found in (each, block))
        print(f"{100 * share:>6.2f} %{'':<16}{shown}", flush=True)


def _median(found: Decided, share: float) -> str:
    wrong = found.promotes() if share > TOLERANCE else found.rejects()
    median = float(np.median(found.at))
    return f"{median:,.0f} ({100 * wrong:.1f} %)" if np.isfinite(median) else f"not yet ({100 * wrong:.1f} %)"


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=4000, help="simulated shadows (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs: expected at least 1, received {arguments.runs}")
    start = time.monotonic()
    errors(arguments.runs, arguments.seed)
    speed(arguments.runs, arguments.seed)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
