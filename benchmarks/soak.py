"""A soak: `python benchmarks/soak.py MINUTES` keeps gnomon under full load and watches its memory.

Everything is mirrored to an equal shadow and telemetry is on. Memory counts as flat if the trend over the second half,
carried on for as long as the whole, adds less than 5 % to what each process holds. Exits with 1 if a call failed, a
selected request is without an outcome, or memory grows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import contenders
import machine
import numpy as np
import psutil
import receiver
from contenders import Running
from generators import GENERATORS, Sent, Target
from models import MODELS
from workload import prepare

# Share of what a process holds by which it may seem to grow.
FLAT: Final = 0.05
LOOKS: Final = 40
ROLES: Final = {"gnomon_server.cli": "control", "gnomon_server.serving": "frontend", "gnomon_server.shadow": "shadow"}
CONNECTIONS, STREAMS = 8, 8


@dataclass(frozen=True)
class Trend:
    """A straight line through the memory of a process: bytes over seconds."""

    level: float
    slope: float

    def growth(self, seconds: float) -> float:
        """Returns the share of the level by which it changes in some seconds."""
        return self.slope * seconds / self.level


def trend(seconds: list[float], sizes: list[float]) -> Trend:
    """Returns the trend of the second half, least squares."""
    half = len(seconds) // 2
    slope, start = np.polyfit(seconds[half:], sizes[half:], 1)
    return Trend(float(start + slope * seconds[half]), float(slope))


class Watcher:
    """Looks at the memory of each process now and then, and says what it sees."""

    def __init__(self, server: Running) -> None:
        self._processes = {_name(process): process for process in (*server.serving, *server.shadows)}
        self.seconds: list[float] = []
        self.sizes: dict[str, list[float]] = {name: [] for name in self._processes}

    def look(self, now: float) -> None:
        """Looks once."""
        self.seconds.append(now)
        for name, process in self._processes.items():
            self.sizes[name].append(float(machine.memory([process])))
        shown = "  ".join(f"{name} {sizes[-1] / 1e6:6.1f} MB" for name, sizes in self.sizes.items())
        print(f"{now:7.0f} s  {shown}", flush=True)

    def verdicts(self) -> list[tuple[str, bool]]:
        """Returns a line for each process, and whether its memory is flat."""
        lines = []
        for name, sizes in self.sizes.items():
            found = trend(self.seconds, sizes)
            grown = found.growth(self.seconds[-1])
            flat = grown < FLAT
            text = f"{name}: {found.level / 1e6:.1f} MB, {grown:+.1%} over the length of the run"
            lines.append((f"{text}: {'flat' if flat else 'growing'}", flat))
        return lines


def run(model: str, minutes: float) -> bool:
    """Runs the soak; returns whether all is well."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnomon-soak-")))
        places = machine.places()
        telemetry = stack.enter_context(receiver.running(places))
        work = prepare(model, folder / "work")
        scratch = folder / "scratch"
        scratch.mkdir()
        server = stack.enter_context(contenders.EQUAL.running(work, scratch, places, telemetry))
        size = work.check(server.address, exact=True)
        target = Target(server.address, minutes * 60, CONNECTIONS, STREAMS, 0.0, work.requests, size, places.generator)
        watcher = Watcher(server)
        sent = _watched(target, scratch, watcher)
        outcomes = server.outcomes(model)
        print(f"{sent.requests:,} answers, {sent.per_second:,.0f}/s, p50 {sent.p50:,.0f} us, p99 {sent.p99:,.0f} us")
        settled = outcomes.selected - outcomes.pending
        print(", ".join(f"{field.name} {count:,}" for field, count in outcomes.ListFields()))
        # The requests of the check are mirrored too.
        counted = settled == outcomes.selected == sent.requests + len(work.requests)
        if not counted:
            print(f"expected {sent.requests + len(work.requests):,} requests with an outcome, received {settled:,}")
        verdicts = watcher.verdicts()
        print("\n".join(line for line, _ in verdicts))
        return counted and all(flat for _, flat in verdicts)


def _watched(target: Target, scratch: Path, watcher: Watcher) -> Sent:
    """Sends the load from a thread that waits for the generator, and looks meanwhile."""
    results: list[Sent] = []
    errors: list[RuntimeError] = []

    def send() -> None:
        # The one of this folder ends its calls, so that the server's count is the generator's.
        try:
            results.append(GENERATORS["streams"](target, scratch))
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    begin = time.monotonic()
    while thread.is_alive():
        watcher.look(time.monotonic() - begin)
        thread.join(target.seconds / LOOKS)
    if errors:
        raise errors[0]
    return results[0]


def _name(process: psutil.Process) -> str:
    """Returns what a process of gnomon does."""
    line = " ".join(process.cmdline())
    return next((name for module, name in ROLES.items() if module in line), line)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("minutes", type=float)
    parser.add_argument("--model", choices=MODELS, default="logreg", help="what is served (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        parser.error("minutes: expected more than nothing")
    try:
        return 0 if run(arguments.model, arguments.minutes) else 1
    except RuntimeError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
