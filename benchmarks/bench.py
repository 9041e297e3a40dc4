"""gnomon beside other servers, in one run on one machine: `python benchmarks/bench.py [--quick]`.

Every server is started anew for every round, in an order that turns round each time, and its answers are compared with
onnxruntime's before it is measured. The server has one core, the generator another; a shadow worker, which has the
lowest priority, may use all of them.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import alone
import generators
import machine
import peers
import receiver
import report
from contenders import Contender
from generators import GENERATORS
from measuring import Bench
from models import MODELS
from plan import SUITES, Task, rounds, tasks
from results import Measurement, append, read
from workload import Workload, prepare

# A few minutes in place of an hour.
QUICK: Final = {"suites": ["closed", "paced", "telemetry"], "models": ["logreg"], "seconds": 1.0, "rounds": 1}
FULL: Final = {"suites": list(SUITES), "models": list(MODELS), "seconds": 3.0, "rounds": 3}


def run(plan: list[Task], bench: Bench, numbers: Iterable[int], file: Path) -> None:
    """Measures everything in every round, and says so as it goes; a contender that fails is named and left out."""
    with tempfile.TemporaryDirectory(prefix="gnomon-bench-") as folder:
        works: dict[str, Workload] = {}
        for number, task in rounds(plan, numbers):
            if task.model not in works:
                works[task.model] = prepare(task.model, Path(folder) / task.model)
            try:
                for one in bench.measure(task, works[task.model], number):
                    append(file, one)
                    print(_line(one), flush=True)
            except RuntimeError as error:
                print(f"bench: {error}", file=sys.stderr)


def _line(one: Measurement) -> str:
    what = f"round {one.round + 1}  {one.suite:<12}{one.model:<12}{one.contender:<26}{one.load!s:<24}"
    return f"{what}{one.per_second:9,.0f}/s  p50 {one.p50:7,.0f} us  p99 {one.p99:8,.0f} us  CPU {one.cpu:7.1f} us"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one model, one short round: a few minutes")
    parser.add_argument("--suites", nargs="+", choices=SUITES, help="what to ask (default: everything)")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="what is served (default: all)")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only servers whose name contains one of these")
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="TEXT", help="no servers whose name contains one of these"
    )
    parser.add_argument("--seconds", type=float, help=f"of each measurement (default: {FULL['seconds']:g})")
    parser.add_argument("--rounds", type=int, help=f"measurements of each (default: {FULL['rounds']})")
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to add to a file")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        help="seconds to wait for a calm machine before each; 0 takes it as it is (default: %(default)g)",
    )
    parser.add_argument("--triton", type=Path, metavar="DIR", help="a Triton as benchmarks/triton.sh makes it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where measurements are added as JSON lines")
    parser.add_argument(
        "--generator",
        choices=GENERATORS,
        default=generators.default(),
        help="what sends: h2load where it is installed, else streams, which is slower (here: %(default)s)",
    )
    arguments = parser.parse_args()
    for name, value in (QUICK if arguments.quick else FULL).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds: expected more than nothing")
    if arguments.triton and not (arguments.triton / "bin" / "tritonserver").exists():
        parser.error(f"--triton: expected bin/tritonserver below {arguments.triton}")
    return arguments


def main() -> int:
    """Runs the command line."""
    arguments = _arguments()
    # Thousands of connections need as many files, here and in the servers that inherit the limit.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    places = machine.places()
    others = [Contender(alone.ALONE, lambda _: ()), *peers.present(arguments.triton and arguments.triton.resolve())]
    plan = tasks(arguments.suites, arguments.models, others)
    if arguments.only:
        plan = [task for task in plan if any(text in task.contender.name for text in arguments.only)]
    plan = [task for task in plan if not any(text in task.contender.name for text in arguments.skip)]
    pins = f"server on core {min(places.server)}, generator on core {min(places.generator)}" if places.pinned else ""
    print(f"{machine.describe()}\n{pins or 'nobody is pinned to a core'}; generator {arguments.generator}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gnomon-bench-")))
        file = arguments.json or folder / "results.jsonl"
        telemetry = stack.enter_context(receiver.running(places))
        bench = Bench(places, arguments.generator, arguments.seconds, arguments.patience, telemetry)
        run(plan, bench, range(arguments.first, arguments.first + arguments.rounds), file)
        if not file.exists():
            return 1
        print(f"\nmedian (lowest-highest) of {arguments.rounds} rounds of {arguments.seconds:g} s\n")
        print("\n".join(report.lines(read([file]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
