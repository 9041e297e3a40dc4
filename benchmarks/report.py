"""The report: `python benchmarks/report.py RESULTS...` prints tables, goals and cautions in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import goals
from plan import CLOSED, SUITES
from results import Measurement, Results, read

# A generator or a machine that is busier than this was part of what was measured.
BUSY = 0.9
NOISY = 0.1
LATE = 1000.0

Column = tuple[str, Callable[[Measurement], float], str]
COMMON: Sequence[Column] = (
    ("requests/s", lambda m: m.per_second, ",.0f"),
    ("p50 µs", lambda m: m.p50, ",.0f"),
    ("p99 µs", lambda m: m.p99, ",.0f"),
    ("CPU µs/request", lambda m: m.cpu, ",.1f"),
    ("memory MB", lambda m: m.memory / 1e6, ",.0f"),
)
COLUMNS: dict[str, Sequence[Column]] = {
    "paced": (
        *COMMON,
        ("shadow CPU µs", lambda m: m.shadow_cpu, ",.1f"),
        ("compared", lambda m: m.compared, ".1%"),
    ),
    "telemetry": COMMON,
    "frontends": (*COMMON, ("generator's cores", lambda m: m.generator, ".2f")),
    "connections": (*COMMON, ("kB/idle connection", lambda m: m.idle_bytes / 1e3, ",.1f")),
}


def lines(results: Results) -> Iterator[str]:
    """Yields the whole report."""
    yield from ("## Goals", "", *goals.table(results), "")
    for suite in results.suites():
        yield from (f"## {suite}: {SUITES[suite].about}", "")
        for model in results.models(suite):
            table = _closed(results, model) if suite == "closed" else _table(results, suite, model)
            yield from (f"**{model}**", "", *table, "")
    yield from ("## Cautions", "", *_cautions(results.all()))


def _closed(results: Results, model: str) -> Iterator[str]:
    """Yields a line for each server: requests per second under every load, and the rest where it is told from."""
    flights = " | ".join(f"{load.in_flight} in flight" for load in CLOSED)
    yield f"| requests/s | {flights} | p50 µs at 1 | p50 µs at 32 | p99 µs at 32 | CPU µs at 32 | memory MB |"
    yield "|---|" + "---|" * (len(CLOSED) + 5)
    for name in results.contenders("closed", model):
        single, _, busy, _ = keys = [("closed", model, name, load) for load in CLOSED]
        rates = [results.figure(key, lambda one: one.per_second) for key in keys]
        rest = [
            results.figure(single, lambda one: one.p50),
            results.figure(busy, lambda one: one.p50),
            results.figure(busy, lambda one: one.p99),
            results.figure(busy, lambda one: one.cpu),
            results.figure(busy, lambda one: one.memory / 1e6),
        ]
        yield f"| {name} | " + " | ".join("-" if one is None else f"{one:,.0f}" for one in [*rates, *rest]) + " |"


def _table(results: Results, suite: str, model: str) -> Iterator[str]:
    columns = COLUMNS[suite]
    yield "| connections x streams | | " + " | ".join(name for name, _, _ in columns) + " |"
    yield "|---|---|" + "---|" * len(columns)
    contenders = results.contenders(suite, model)
    loads = sorted(
        {load for name in contenders for load in results.loads(suite, model, name)},
        key=lambda load: (load.in_flight, load.idle),
    )
    for load in loads:
        for name in contenders:
            figures = [(results.figure((suite, model, name, load), of), form) for _, of, form in columns]
            if figures[0][0] is not None:
                yield f"| {load} | {name} | " + " | ".join(f"{one:{form}}" for one, form in figures) + " |"


def _cautions(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Yields what was part of the measurement beside the servers."""
    of = f"of {len(measurements)} measurements"
    if busy := [m for m in measurements if m.generator > BUSY and not m.rate]:
        most = "; ".join(dict.fromkeys(f"{m.suite} {m.model} {m.contender} {m.load}" for m in busy))
        yield f"- {len(busy)} {of}: the generator used more than {BUSY:.0%} of a core: {most}"
    if late := [m.late for m in measurements if m.late > LATE]:
        worst = f"at most {max(late) / 1e3:.1f} ms"
        yield f"- {len(late)} {of}: requests with a rate were begun more than {LATE / 1e3:g} ms late (p99), {worst}"
    if noisy := [m.foreign for m in measurements if m.foreign > NOISY]:
        worst = f"at most {max(noisy):.0%}"
        yield f"- {len(noisy)} {of}: other programs used more than {NOISY:.0%} of the machine, {worst}"


def main() -> int:
    """Runs the command line."""
    try:
        results = read([Path(file) for file in sys.argv[1:]])
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
