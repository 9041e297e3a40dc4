"""Labels that come to a server that did not answer the request, where two share one PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from databases import Database
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_client import Control

# After the deadline, a label's request does not come any more.
CONFIG = "grace = 1.0\n[mirror]\ndeadline = 0.5\n"
REQUESTS = 40
OUTCOMES = ("joined", "late", "duplicate", "refused", "unknown", "waiting")


class Pair:
    """Two servers on one database, and their control APIs."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.servers = [
            ServerProcess(folder / "models", folder / name, "--store", database.url, config=CONFIG) for name in "ab"
        ]
        self.controls: list[Control] = []

    def ask(self) -> None:
        """Has each of them answer requests of its own."""
        for server, name in zip(self.servers, "ab", strict=True):
            with server.client() as client:
                for number in range(REQUESTS):
                    client.infer("m", np.full((1, 3), number, np.float32), request_id=f"{name}{number}")
        for control in self.controls:
            at_rest(control, "m", 2 * REQUESTS)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    for version in (1, 2):
        models.write(tmp_path / "models", "m", version, models.classifier(0.0))
    with ExitStack() as stack:
        found = Pair(tmp_path, stack.enter_context(Database()))
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, found.servers))
        for server in found.servers:
            found.controls.append(stack.enter_context(server.control()))
            mirrored(found.controls[-1], "m")
        yield found


def outcomes(control: Control) -> dict[str, int]:
    found = control.report("m").labels
    return {name: getattr(found, name) for name in OUTCOMES if getattr(found, name)}


def test_a_label_is_joined_by_whichever_server_answered_its_request(pair: Pair) -> None:
    pair.ask()
    # Every label comes to the wrong one, and some are of requests that nobody answered.
    for control, name in zip(pair.controls, "ba", strict=True):
        control.feedback("m", [(f"{name}{number}", 1) for number in range(REQUESTS)])
        control.feedback("m", [(f"nobody-{name}{number}", 1) for number in range(5)])
    for control in pair.controls:
        eventually(lambda control=control: outcomes(control) == {"joined": 2 * REQUESTS, "unknown": 10})  # type: ignore[misc]
    assert pair.controls[0].report("m").labels.both_right > 0
    # Once more, and to everybody: the first counts.
    for control in pair.controls:
        control.feedback("m", [("a0", 1), ("b0", 1)])
    expected = {"joined": 2 * REQUESTS, "unknown": 10, "duplicate": 4}
    for control in pair.controls:
        eventually(lambda control=control: outcomes(control) == expected)  # type: ignore[misc]


def test_labels_of_a_server_that_is_killed_are_unknown_once_and_those_of_the_other_are_joined(pair: Pair) -> None:
    pair.ask()
    first, _ = pair.controls
    pair.servers[1].kill()
    first.feedback("m", [(f"b{number}", 1) for number in range(REQUESTS)])
    eventually(lambda: outcomes(first) == {"unknown": REQUESTS})
    pair.servers[1].start()
    with pair.servers[1].control() as back:
        mirrored(back, "m")
        back.feedback("m", [(f"a{number}", 1) for number in range(REQUESTS)])
        for control in (first, back):
            eventually(lambda control=control: outcomes(control) == {"joined": REQUESTS, "unknown": REQUESTS})  # type: ignore[misc]


def test_labels_that_wait_at_a_server_that_stops_go_to_the_other(pair: Pair) -> None:
    pair.ask()
    first, second = pair.controls
    second.feedback("m", [(f"a{number}", 1) for number in range(REQUESTS)])
    assert pair.servers[1].terminate() == 0
    eventually(lambda: outcomes(first) == {"joined": REQUESTS})
