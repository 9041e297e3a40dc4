"""Where the time goes: `python benchmarks/profiling.py [--model logreg]` samples a loaded frontend with Linux's perf.

It prints which share of the frontend's CPU is spent in which library, and in which functions of it most.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import contenders
import machine
import receiver
from generators import GENERATORS, Target, default
from models import MODELS
from workload import prepare

SECONDS: Final = 8.0
LOAD: Final = (8, 8)
LINE: Final = re.compile(r"\s*([\d.]+)%\s+(\S+)\s+\[.\]\s+(.*\S)")
# Libraries by what they do; others go by their names.
PARTS: Final = {
    "libpython": "Python",
    "python3": "Python",
    "_core.": "HTTP/2 (ngh2)",
    "onnxruntime": "onnxruntime",
    "[kernel": "kernel: sockets, scheduling",
    "libc.": "libc: memory",
    "libstdc": "libc: memory",
}
SHOWN: Final = 3
# Per cent below which a library is not worth a line.
SMALL: Final = 0.5


def parts(report: str) -> dict[str, dict[str, float]]:
    """Returns per cent by part and function from what `perf report --sort dso,sym --stdio` prints, largest first."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in report.splitlines():
        if match := LINE.fullmatch(line):
            share, library, function = float(match[1]), match[2], match[3]
            part = next((name for start, name in PARTS.items() if start in library), library)
            found[part][function] = found[part].get(function, 0.0) + share
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def profile(model: str) -> str:
    """Returns perf's report on a frontend under full load."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnomon-profile-")))
        places = machine.places()
        telemetry = stack.enter_context(receiver.running(places))
        work = prepare(model, folder / "work")
        server = stack.enter_context(contenders.GNOMON.running(work, folder, places, telemetry))
        size = work.check(server.address, exact=True)
        frontend = next(one for one in server.serving if "gnomon_server.serving" in " ".join(one.cmdline()))
        target = Target(server.address, SECONDS + 1, *LOAD, 0.0, work.requests, size, places.generator)
        data = str(folder / "perf.data")
        record = ("perf", "record", "-F", "999", "-o", data, "-p", str(frontend.pid), "--", "sleep", str(SECONDS))
        with subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            sent = GENERATORS[default()](target, folder)
        print(f"{model}, {LOAD[0]} connections x {LOAD[1]} streams: {sent.per_second:,.0f} requests/s while sampled\n")
        report = ("perf", "report", "-i", data, "--no-children", "--sort", "dso,sym", "--stdio")
        return subprocess.run(report, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="logreg", help="what is served (default: %(default)s)")
    model = parser.parse_args().model
    try:
        report = profile(model)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"profiling: {error}", file=sys.stderr)
        return 1
    print("| part | share | most of it in |\n|---|---|---|")
    for part, functions in parts(report).items():
        if sum(functions.values()) < SMALL:
            continue
        largest = sorted(functions.items(), key=lambda item: -item[1])[:SHOWN]
        most = ", ".join(f"`{function}` {share:.1f} %" for function, share in largest)
        print(f"| {part} | {sum(functions.values()):.1f} % | {most} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
