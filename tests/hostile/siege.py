"""A siege: forgeries and raids by the thousand against a real server, with good requests beside them all the while.

`python tests/hostile/siege.py --calls 600000 --seed 1 --transport http2` runs one, prints what it saw, and exits 1 if
the server failed: a call that hung or ended with a status that no client's mistake has, a good request that was not
answered rightly, memory that grew after the warm-up, or an error in the log. `make siege` runs it on both transports.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile import repository
from hostile.attacker import HUNG, PATIENCE, Attacker, Gone, Outcome
from hostile.forgeries import Forgery, forgery
from hostile.raids import RAIDS
from hostile.witness import Witness
from servers import ServerProcess

# Statuses that a client's mistake has: OK, as some forgeries are right by chance, INVALID_ARGUMENT, NOT_FOUND,
# PERMISSION_DENIED, RESOURCE_EXHAUSTED and UNIMPLEMENTED; of a deadline of a nanosecond, DEADLINE_EXCEEDED.
EXPECTED = {"0", "3", "4", "5", "7", "8", "12"}
# gRPC answers what is no length-prefixed message with INTERNAL, and so does a model whose run fails.
INTERNAL = "13"
MAY_BE_INTERNAL = {"misframed", "compressed", "odd headers", "noise", "spoilt request", "spoilt bytes", "nested"}
# What is no gRPC at all ends with an HTTP status, or with a reset.
NO_GRPC = ("http 4", "reset 1")
MAY_BE_NO_GRPC = {"odd headers", "no method"}
# Words of libraries and of Python that no client should read.
FOREIGN_WORDS = (b"Traceback", b"site-packages", b".py", b"onnxruntime", b"numpy", b"<class")
# Share of the samples in which the server comes to have everything that it will ever need.
WARM = 0.25
# MiB by which a process may have risen since, beyond what the samples' own scatter explains: what a bomb took is given
# back sooner or later, and allocators keep pages in another pattern each time.
SLACK = 8.0
# Samples without which there is no telling.
ENOUGH = 8
TOGETHER = 50


@dataclass
class Report:
    """What a siege saw."""

    calls: int = 0
    raids: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    # MiB by process, each time the memory was looked at.
    memory: list[dict[str, float]] = field(default_factory=list)
    good: int = 0
    seconds: float = 0.0

    @property
    def refused(self) -> int:
        """Calls that were not answered with OK."""
        return self.calls - self.statuses["0"]

    def risen(self) -> dict[str, tuple[float, float]]:
        """MiB by which each process has risen since the warm-up, and the standard error; nothing after few samples."""
        count = len(self.memory)
        if count < ENOUGH:
            return {}
        after = self.memory[int(count * WARM) :]
        return {name: rise([sample[name] for sample in after if name in sample]) for name in self.memory[-1]}

    def lines(self) -> Iterable[str]:
        """What a person wants to know."""
        yield f"{self.calls} calls in {self.seconds:.0f} s, {self.refused} refused; {self.good} good ones beside"
        yield "statuses: " + ", ".join(f"{status}: {count}" for status, count in self.statuses.most_common())
        yield "raids: " + ", ".join(f"{name}: {count}" for name, count in sorted(self.raids.items()))
        for name in self.memory[-1]:
            yield f"MiB of {name}: " + " ".join(f"{sample.get(name, 0):.0f}" for sample in self.memory)
        for name, (risen, error) in self.risen().items():
            yield f"{name} has risen by {risen:.1f} MiB since the warm-up, with a standard error of {error:.1f}"
        yield from (f"FAILED {failure}" for failure in self.failures[:20])


async def siege(server: ServerProcess, calls: int, seed: int, samples: int = 20, strict: bool = True) -> Report:
    """Runs one; everything that is sent follows from the seed.

    Not strictly, there are no raids, and statuses, resets and the log are taken as they come: grpcio has its own for
    what it cannot read, and under a storm of resets it cancels the calls of others.
    """
    report, chance, begun = Report(), random.Random(seed), time.monotonic()
    before = files(server)
    with Witness(server.grpc) as witness:
        per_sample = calls // samples
        for _ in range(samples):
            await _attack(server.grpc, per_sample, chance, report, strict)
            if strict:
                await _raid(server.grpc, chance, report)
            witness.wait_for_more()
            report.memory.append(memory(server))
    report.good, report.seconds = witness.answered, time.monotonic() - begun
    report.failures += witness.failures
    if strict:
        if not await _let_go(server, before):
            report.failures.append(f"{files(server)} files are open, {before} were before")
        report.failures += [f"log: {line.strip()}" for line in server.log if "Traceback" in line]
    for name, (risen, error) in report.risen().items():
        if grew(risen, error):
            report.failures.append(f"{name} grew by {risen:.1f} MiB")
    return report


async def _let_go(server: ServerProcess, before: int) -> bool:
    """Waits until the frontends have no more files open than before; returns whether they ever have."""
    deadline = time.monotonic() + PATIENCE
    while files(server) > before and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return files(server) <= before


async def _raid(address: str, chance: random.Random, report: Report) -> None:
    for name, raid in RAIDS.items():
        outcome = await raid(address, random.Random(chance.random()))
        report.raids[name] += 1
        if outcome is not None and outcome.status != "0":
            report.failures.append(f"the good call of {name} ended with {outcome}")


async def _attack(address: str, calls: int, chance: random.Random, report: Report, strict: bool) -> None:
    for _ in range(calls // TOGETHER):
        forgeries = [forgery(chance) for _ in range(TOGETHER)]
        outcomes = await sent(address, forgeries)
        for each, outcome in zip(forgeries, outcomes, strict=True):
            report.calls += 1
            report.statuses[outcome.status] += 1
            problem = judged(each, outcome, strict)
            if problem:
                report.failures.append(f"{problem}: {outcome} to {each}"[:500])


async def sent(address: str, forgeries: Sequence[Forgery]) -> list[Outcome]:
    """Sends calls on one connection; where one of them ends it, in halves, so that it is known which."""
    try:
        with Attacker(address) as attacker:
            return await attacker.send(forgeries)
    except (Gone, ConnectionError):
        if len(forgeries) == 1:
            return [Outcome("gone")]
    middle = len(forgeries) // 2
    return await sent(address, forgeries[:middle]) + await sent(address, forgeries[middle:])


def judged(each: Forgery, outcome: Outcome, strict: bool) -> str:
    """Returns what is wrong with an outcome, or nothing."""
    status, text = outcome.status, outcome.text
    known = (
        status in EXPECTED
        or (not strict and outcome != HUNG)
        or (status == INTERNAL and each.kind in MAY_BE_INTERNAL)
        or (each.kind in MAY_BE_NO_GRPC and (status.startswith(NO_GRPC) or status == "gone"))
    )
    if not known:
        return "unexpected status"
    if len(text) > 1024 or not text.isascii() or not text.decode().isprintable():
        return "text that is too long or not printable"
    if text.startswith(b"internal error"):
        return "an exception that nobody foresaw"
    if any(word in text for word in FOREIGN_WORDS):
        return "text of a library"
    if strict and status != "0" and not text and not status.startswith(NO_GRPC) and status != "gone":
        return "no text"
    return ""


def rise(sizes: Sequence[float]) -> tuple[float, float]:
    """Returns by how much the least-squares line through sizes rises from the first to the last, and its error."""
    (slope, _), covariance = np.polyfit(np.linspace(0, 1, len(sizes)), sizes, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))


def grew(risen: float, error: float) -> bool:
    """Whether a rise is more than the slack and two standard errors."""
    return risen - 2 * error > SLACK


def files(server: ServerProcess) -> int:
    """Returns how many files, connections among them, the frontends have open."""
    return sum(child.num_fds() for child in server.children("gnomon_server.serving"))


def memory(server: ServerProcess) -> dict[str, float]:
    """Returns the resident MiB of the server's processes that hear of clients."""
    found = {"control": psutil.Process(server.pid).memory_info().rss / 2**20}
    for number, child in enumerate(server.children("gnomon_server.serving")):
        found[f"frontend {number}"] = child.memory_info().rss / 2**20
    return found


def main() -> int:
    """Runs one siege; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transport", default="http2")
    parser.add_argument("--samples", type=int, default=20)
    chosen = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    with tempfile.TemporaryDirectory() as folder:
        models = repository.write(Path(folder) / "models")
        with ServerProcess(models, Path(folder) / "state", "--transport", chosen.transport) as server:
            strict = chosen.transport == "http2"
            report = asyncio.run(siege(server, chosen.calls, chosen.seed, chosen.samples, strict))
    print("\n".join(report.lines()))  # noqa: T201 - what it is for
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
