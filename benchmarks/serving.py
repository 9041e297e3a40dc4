"""Requests per second and CPU per request of gnomon beside bare grpcio servers, in one run on one machine.

    python benchmarks/serving.py [--seconds 5] [--concurrency 8] [--rounds 3] [--model logreg] [--generator h2load]

Every contender is started anew for every round, in an order that turns round each time; its answers are compared bit
for bit with onnxruntime's before it is measured. The server has one core, the generator another; a shadow worker, which
has the lowest priority, may use all of them. CPU is user and system time of the processes, while the load lasts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import generators
import machine
from contenders import ALONE, ASYNCIO, CONTENDERS, MIRRORED, THREADS, Contender, Running
from generators import GENERATORS, STREAMS, Sent, Target
from machine import Places
from workload import MODELS, Workload, prepare

from gnomon_protos.control_pb2 import Outcomes

WARM_SECONDS: Final = 1.0
# A generator or a machine that is busier than this was part of what was measured.
BUSY: Final = 0.9
NOISY: Final = 0.1


@dataclass(frozen=True)
class Measurement:
    """One contender in one round; shares are of one core, of the machine, and of the selected requests."""

    per_second: float
    # Microseconds of every process that is needed to answer.
    cpu: float
    # Microseconds of the shadow worker for one mirrored request that it compared; 0 where nothing is mirrored.
    shadow_cpu: float
    compared_share: float
    generator_share: float
    # What other programs used of the machine.
    foreign_share: float


@dataclass(frozen=True)
class Bench:
    """How to measure."""

    work: Workload
    places: Places
    generator: str
    seconds: float
    concurrency: int

    def measure(self, contender: Contender) -> Measurement:
        """Starts a contender, checks its answers, warms it up, measures it and stops it."""
        with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
            scratch = Path(folder)
            with contender.running(self.work, scratch, self.places) as server:
                size = self.work.check(server.address)

                def load(seconds: float) -> Sent:
                    requests, cores = self.work.requests, self.places.generator
                    target = Target(server.address, seconds, self.concurrency, requests, size, cores)
                    return GENERATORS[self.generator](target, scratch)

                load(WARM_SECONDS)
                return self._measured(server, load)

    def _measured(self, server: Running, load: Callable[[float], Sent]) -> Measurement:
        before = server.outcomes(self.work.model) if server.shadows else Outcomes()
        shadow, serving = machine.cpu_seconds(server.shadows), machine.cpu_seconds(server.serving)
        busy, begin = machine.busy_seconds(), time.monotonic()
        sent = load(self.seconds)
        elapsed, busy = time.monotonic() - begin, machine.busy_seconds() - busy
        serving = machine.cpu_seconds(server.serving) - serving
        ours = serving + sent.cpu_seconds + machine.cpu_seconds(server.shadows) - shadow
        # The shadow has not finished when the load ends; all of its work counts.
        after = server.outcomes(self.work.model) if server.shadows else Outcomes()
        shadow = machine.cpu_seconds(server.shadows) - shadow
        compared, selected = after.compared - before.compared, after.selected - before.selected
        return Measurement(
            per_second=sent.per_second,
            cpu=serving / sent.requests * 1e6,
            shadow_cpu=shadow / compared * 1e6 if compared else 0.0,
            compared_share=compared / selected if selected else 0.0,
            generator_share=sent.cpu_seconds / elapsed,
            foreign_share=max(0.0, busy - ours) / (elapsed * machine.cores()),
        )


Results = dict[Contender, list[Measurement]]


def run(bench: Bench, rounds: int) -> Results:
    """Measures every contender in every round, and says so as it goes."""
    results: Results = {contender: [] for contender in CONTENDERS}
    for number in range(rounds):
        for contender in CONTENDERS if number % 2 == 0 else CONTENDERS[::-1]:
            result = bench.measure(contender)
            results[contender].append(result)
            shown = f"{result.per_second:8,.0f} requests/s, {result.cpu:6.1f} us"
            print(f"  round {number + 1}: {contender.name:<24}{shown}", flush=True)
    return results


def table(results: Results) -> list[str]:
    """Returns a line for each contender: median, then lowest and highest."""
    lines = [f"{'':<24}{'requests/s':>26}{'server CPU us/request':>26}{'shadow CPU us/mirrored':>26}"]
    for contender, rounds in results.items():
        columns = (
            _spread([r.per_second for r in rounds], ",.0f"),
            _spread([r.cpu for r in rounds], ".1f"),
            _spread([r.shadow_cpu for r in rounds], ".1f") if contender.mirrored else "-",
        )
        lines.append(f"{contender.name:<24}" + "".join(f"{column:>26}" for column in columns))
    return lines


def sentences(results: Results) -> list[str]:
    """Returns the ratios, each the median of the ratios within the rounds, and what limits the figures."""
    lines = []
    for ours in (ALONE, MIRRORED):
        for bare in (THREADS, ASYNCIO):
            more = _ratio(results, ours, bare, lambda m: m.per_second)
            cost = _ratio(results, ours, bare, lambda m: m.cpu)
            lines.append(f"{ours.name}: {more} x the requests/s and {cost} x the CPU of {bare.name}")
    cost = _ratio(results, MIRRORED, ALONE, lambda m: m.cpu)
    share = min(m.compared_share for m in results[MIRRORED])
    lines.append(f"mirroring everything: {cost} x the server CPU; at least {share:.1%} of the mirrored were compared")
    every = [m for rounds in results.values() for m in rounds]
    busiest, foreign = max(m.generator_share for m in every), max(m.foreign_share for m in every)
    if busiest > BUSY:
        lines.append(f"caution: the generator used {busiest:.0%} of its core: requests/s are what it could send")
    if foreign > NOISY:
        lines.append(f"caution: other programs used up to {foreign:.0%} of the machine: the figures are noisy")
    return lines


def _ratio(results: Results, one: Contender, other: Contender, figure: Callable[[Measurement], float]) -> str:
    return f"{median(figure(a) / figure(b) for a, b in zip(results[one], results[other], strict=True)):.2f}"


def _spread(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, default=8, help="requests in flight (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: %(default)s)")
    parser.add_argument("--model", choices=MODELS, default="logreg", help="what is served (default: %(default)s)")
    parser.add_argument(
        "--generator",
        choices=GENERATORS,
        default=generators.default(),
        help="what sends: h2load where it is installed, else streams, which is slower (here: %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.concurrency < 1 or (arguments.concurrency > STREAMS and arguments.concurrency % STREAMS):
        expected = f"expected 1 to {STREAMS}, or a multiple of {STREAMS}"
        parser.error(f"--concurrency: {expected}, received {arguments.concurrency}")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds: expected more than nothing")
    return arguments


def main() -> int:
    """Runs the command line."""
    arguments = _arguments()
    places = machine.places()
    print(machine.describe())
    pins = f"server on core {min(places.server)}, generator on core {min(places.generator)}" if places.pinned else ""
    connections = f"{-(-arguments.concurrency // STREAMS)} connection(s)"
    print(f"{pins or 'nobody is pinned to a core'}; generator {arguments.generator}")
    print(f"model {arguments.model}, one row of 30 FP32; {arguments.concurrency} in flight on {connections}")
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
        work = prepare(arguments.model, Path(folder))
        bench = Bench(work, places, arguments.generator, arguments.seconds, arguments.concurrency)
        try:
            results = run(bench, arguments.rounds)
        except RuntimeError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 1
    print(f"\nmedian (lowest-highest) of {arguments.rounds} rounds of {arguments.seconds:g} s")
    print("\n".join([*table(results), "", *sentences(results)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
