"""k6, which load tests gRPC with grpc-go, checks every answer of a short run."""

from __future__ import annotations

import json
from pathlib import Path

from foreign.programs import ROOT, ran
from servers import ServerProcess

SCRIPT = Path(__file__).with_name("k6_calls.js")
ITERATIONS = 2200
REFUSALS = 220


def test_ten_users_of_k6_get_the_right_answer_every_time(server: ServerProcess) -> None:
    where = {"ADDRESS": server.grpc, "PROTOS": str(ROOT / "protos")}
    # No report to its makers, no REST server of its own.
    quiet = ("--no-usage-report", "--address", "", "--quiet")
    done = ran("k6", "run", *quiet, SCRIPT, environment=where)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout)
    assert summary["iterations"] == ITERATIONS
    assert {name: (passes, fails) for name, passes, fails in summary["checks"]} == {
        "a right request is answered": (ITERATIONS, 0),
        "the answer is of this request": (ITERATIONS, 0),
        "every number is doubled": (ITERATIONS, 0),
        "an unknown model is not found": (REFUSALS, 0),
        "and the text says so": (REFUSALS, 0),
    }
