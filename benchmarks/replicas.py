"""Two servers on one PostgreSQL: how soon one follows the other, and what ten seconds without the database cost.

PYTHONPATH=tests .venv/bin/python benchmarks/replicas.py [--switches 30] [--seconds 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import onnx_models as models
from databases import Cable, Database
from load import Load
from servers import ServerProcess, eventually
from tallying import mirrored

from gnomon_client import Client, ClientError, Control

CONFIG: Final = "grace = 1.0\n[mirror]\ndeadline = 60.0\n"
ROW: Final = np.ones((1, 3), np.float32)


def followed(control: Control, other: Client, switches: int) -> list[float]:
    """Returns the seconds from the end of each change at one server until the other answers by it."""
    seconds = []
    for number in range(switches):
        if number % 2:
            control.rollback("m")
        else:
            control.promote("m", 2, force=True, reason="to and fro")
        done = time.monotonic()
        wanted = "1" if number % 2 else "2"
        while other.infer("m", ROW).version != wanted:
            time.sleep(0.002)
        seconds.append(time.monotonic() - done)
    return sorted(seconds)


def cut(folder: Path, servers: list[ServerProcess], controls: list[Control], cable: Cable, seconds: float) -> None:
    """Cuts one server off while both answer, a version appears and the other promotes; prints what is left."""
    near, far = controls
    for control in controls:
        mirrored(control, "m", 2)
    refused = 0
    known = near.report("m", 2).outcomes.selected
    with Load(servers[0].grpc, "m", name="near") as one, Load(servers[1].grpc, "m", name="far") as other:
        one.reach(50)
        cable.cut()
        end = time.monotonic() + seconds
        models.write(folder / "models", "m", 3, models.affine(3.0))
        while time.monotonic() < end:
            try:
                far.shadow("m", 2, 0.5)
            except ClientError:
                refused += 1
        one.stop()
        other.stop()
        cable.mend()
    sent = one.ended + other.ended
    print(f"{seconds:g} s without the database at one of two servers: {sent:,} requests, ", end="")
    print(f"{len(one.failures) + len(other.failures)} failed, {refused} changes refused there")
    eventually(lambda: {c.report("m", 2).outcomes.compared for c in controls} == {known + sent}, 60)
    print(f"  both count all of them: {known + sent:,} compared, with what was before")
    near.promote("m", 2, force=True, reason="after the cut")
    eventually(lambda: far.models("m").models[0].route == near.models("m").models[0].route)
    changes = Counter(f"{entry.action} {entry.version}" for entry in near.audit("m", 1000).entries)
    found = changes["discover 3"]
    print(f"  both have one route, and version 3 was given its role {found} time{'s' * (found != 1)}", flush=True)


def main() -> None:
    """Measures and prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switches", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for version in (1, 2):
            models.write(folder / "models", "m", version, models.affine(float(version)))
        database = stack.enter_context(Database())
        cable = Cable(database.port)
        stack.callback(cable.close)
        servers = [
            stack.enter_context(ServerProcess(folder / "models", folder / name, "--store", url, config=CONFIG))
            for name, url in (("near", database.url), ("far", cable.url))
        ]
        controls = [stack.enter_context(server.control()) for server in servers]
        seconds = followed(controls[0], stack.enter_context(servers[1].client()), arguments.switches)
        print(f"after {len(seconds)} changes at one server the other answered by them within ", end="")
        print(f"{median(seconds):.2f} s (median) and {seconds[-1]:.2f} s (most)", flush=True)
        cut(folder, servers, controls, cable, arguments.seconds)


if __name__ == "__main__":
    main()
