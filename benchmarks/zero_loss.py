"""The proof of zero-loss switching: promotions and rollbacks under full load, and kill -9 in the middle of them.

PYTHONPATH=tests .venv/bin/python benchmarks/zero_loss.py [--switches 1000] [--kills 200]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import switching


def switches(folder: Path, count: int, threads: int) -> bool:
    """Switches under load; returns whether nothing was lost or answered by another."""
    with switching.serve(folder) as server:
        begin = time.monotonic()
        senders, timeline = switching.switched_under_load(server, count, threads)
        seconds = time.monotonic() - begin
        strays, entries = senders.strays(timeline), switching.verified(server.state)
    by_version = {version: sum(one.named == version for one in senders.seen) for version in switching.VERSIONS}
    answers = ", ".join(f"{number:,} by version {version}" for version, number in by_version.items())
    print(f"{count:,} switches in {seconds:.0f} s beside {threads} clients and 2 frontends")
    print(f"  {len(senders.seen):,} answers ({answers}), {len(senders.failures)} failed requests")
    print(f"  {len(strays)} answers by a version that was not in the route")
    print(f"  {entries:,} entries of the audit are whole", flush=True)
    for line in (*senders.failures[:5], *strays[:5]):
        print("  ", line)
    return not senders.failures and not strays


def kills(folder: Path, count: int, seed: int) -> None:
    """Kills control and frontends in turn; fails with what was wrong."""
    dice, new, lost = random.Random(seed), 0, 0
    with switching.serve(folder) as server:
        for number in range(count):
            if number % 2:
                lost += len(switching.kill_frontend(server, dice))
            else:
                new += switching.kill_control(server, dice)
        entries = switching.verified(server.state)
    controls = count - count // 2
    print(f"{controls} kills of control in the middle of a change (seed {seed})")
    print(f"  left the old route {controls - new} times and the new one {new} times, entire")
    print(f"{count // 2} kills of a frontend in the middle of changes under load")
    print(f"  took {lost} requests in flight with them; no change failed, no version answered out of turn")
    print(f"  {entries:,} entries of the audit are whole", flush=True)


def main() -> int:
    """Runs both proofs; 0 if they hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switches", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        held = not arguments.switches or switches(Path(name) / "load", arguments.switches, arguments.clients)
        if arguments.kills:
            kills(Path(name) / "kills", arguments.kills, arguments.seed)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
