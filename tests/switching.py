"""Switching under load and under kill -9: what may answer when, and what must be left of a route.

Shared by the tests and by benchmarks/zero_loss.py, which does the same many times more.
"""

from __future__ import annotations

import bisect
import os
import random
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_models as models
from numpy.typing import NDArray
from servers import ServerProcess, eventually

from gnomon_client import Client, ClientError, Control, Retries
from gnomon_protos import control_pb2 as pb
from gnomon_server.control.audit import chain, checkpoint, signing
from gnomon_server.control.audit.checkpoint import Checkpoint
from gnomon_server.control.audit.signing import PublicKey
from gnomon_server.control.store.sqlite import entries_in

MODEL = "m"
# Of the model, each of which multiplies by its number.
VERSIONS = (1, 2)
CONFIG = "grace = 1.0\nworkers = 2\n"


@dataclass(frozen=True)
class Seen:
    """One answered request; times by the monotonic clock, in seconds."""

    sent: float
    received: float
    # The version that the answer names, and the one whose numbers it holds.
    named: int
    found: int


class Timeline:
    """Which versions may have been the primary, by the calls that changed it."""

    def __init__(self, primary: int) -> None:
        # When each primary could take over at the earliest, and the one before answer at the latest.
        self._begins: list[float] = [0.0]
        self._ends: list[float] = []
        self._versions = [primary]

    def changes(self, version: int) -> None:
        """Notes that a call is about to make a version the primary."""
        self._begins.append(time.monotonic())
        self._versions.append(version)

    def changed(self) -> None:
        """Notes that the call has returned: what was the primary before answers nothing that is sent from now on."""
        self._ends.append(time.monotonic())

    @property
    def primary(self) -> int:
        """The newest one."""
        return self._versions[-1]

    def allowed(self, sent: float, received: float) -> set[int]:
        """Returns the versions that may answer a request that was sent and answered at these times."""
        # The first whose time was not over when the request was sent, and all that began before it was answered.
        first = bisect.bisect_right(self._ends, sent)
        last = bisect.bisect_right(self._begins, received)
        return set(self._versions[first:last])


class Senders:
    """Client threads that send as fast as they are answered, without retries; for a `with` block."""

    def __init__(self, address: str, threads: int) -> None:
        self._stop = threading.Event()
        self._clients = [Client(address, retries=Retries(0), timeout=30) for _ in range(threads)]
        self._threads = [threading.Thread(target=self._send, args=(client,)) for client in self._clients]
        self.seen: list[Seen] = []
        self.failures: list[str] = []

    def _send(self, client: Client) -> None:
        row: NDArray[np.float32] = np.ones((1, 3), np.float32)
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                result = client.infer(MODEL, row)
            except ClientError as error:
                self.failures.append(str(error))
                # A frontend that was killed has to come back first.
                self._stop.wait(0.01)
            else:
                self.seen.append(Seen(sent, time.monotonic(), int(result.version), int(result["y"][0, 0])))

    def strays(self, timeline: Timeline) -> list[Seen]:
        """Returns the answers that no version of the route gave, or that name another than gave them."""
        return [
            one
            for one in self.seen
            if one.named != one.found or one.named not in timeline.allowed(one.sent, one.received)
        ]

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        for client in self._clients:
            client.close()


def serve(folder: Path) -> ServerProcess:
    """Returns a server of the model, not yet started, whose versions watch each other."""
    for version in VERSIONS:
        models.write(folder / "models", MODEL, version, models.affine(float(version)))
    return ServerProcess(folder / "models", folder / "state", config=CONFIG)


def switch(control: Control, timeline: Timeline) -> None:
    """Promotes the other version if the first is the primary, or else rolls back."""
    first, other = VERSIONS
    timeline.changes(other if timeline.primary == first else first)
    if timeline.primary == other:
        control.promote(MODEL, other, force=True, reason="to and fro")
    else:
        control.rollback(MODEL, reason="to and fro")
    timeline.changed()


def switched_under_load(server: ServerProcess, switches: int, threads: int) -> tuple[Senders, Timeline]:
    """Returns what many switches under full load left: every answer, every failure, and what was allowed when."""
    with server.control() as control, Senders(server.grpc, threads) as senders:
        timeline = Timeline(route(control).primary)
        for _ in range(switches):
            switch(control, timeline)
    return senders, timeline


class Switcher:
    """Switches for ever on a thread of its own, until a call fails; for a `with` block."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.busy = threading.Event()
        self.timeline = Timeline(route(control).primary)
        self.made = 0

    def _run(self) -> None:
        with suppress(ClientError):
            while not self._stop.is_set():
                self.busy.set()
                switch(self._control, self.timeline)
                self.made += 1

    def failed(self) -> None:
        """Waits until a call has failed."""
        self._thread.join(180)
        assert not self._thread.is_alive(), "a change of the route never failed"

    def __enter__(self) -> Switcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(180)
        assert not self._thread.is_alive(), "a change of the route never returned"


def route(control: Control) -> pb.Route:
    """Returns the route of the model."""
    return control.models(MODEL).models[0].route


def kill_control(server: ServerProcess, dice: random.Random) -> bool:
    """Kills control in the middle of a change and starts it again; returns whether the change was made.

    Fails unless the route is entirely the old or entirely the new one, and unless the audit is whole.
    """
    with server.control() as control:
        generation = route(control).generation
        with Switcher(control) as switcher:
            switcher.busy.wait()
            time.sleep(dice.uniform(0, 0.15))
            os.kill(server.pid, signal.SIGKILL)
            switcher.failed()
        made, primary = switcher.made, switcher.timeline.primary
    assert server.process is not None
    server.process.wait(30)
    verified(server.state)
    server.start()
    with server.control() as control:
        found = route(control)
        # The call that was cut short changed everything or nothing.
        assert found.generation - generation in (made, made + 1), (found, generation, made)
        whole = found.generation - generation == made + 1
        assert found.primary == (primary if whole else sum(VERSIONS) - primary), (found, primary, whole)
        assert sorted([found.primary, found.previous or found.shadows[0].version]) == list(VERSIONS), found
        newest = control.audit(MODEL, 1).entries[0]
        assert newest.after == found, (newest, found)
    answers_alike(server, found.primary)
    return whole


def kill_frontend(server: ServerProcess, dice: random.Random) -> list[str]:
    """Kills a frontend in the middle of changes under load; returns the requests that were lost with it.

    Fails if a version answers that the route does not name, or if any change fails.
    """
    with server.control() as control, Senders(server.grpc, 2) as senders:
        with Switcher(control) as switcher:
            switcher.busy.wait()
            time.sleep(dice.uniform(0, 0.15))
            victim = dice.choice(server.children("gnomon_server.serving"))
            victim.kill()
            # The changes go on, with the frontend that comes in its place.
            made = switcher.made
            eventually(lambda: switcher.made >= made + 3, 120)
        assert senders.strays(switcher.timeline) == []
        assert all("UNAVAILABLE" in failure for failure in senders.failures), senders.failures[:3]
        primary = route(control).primary
        assert primary == switcher.timeline.primary
    answers_alike(server, primary)
    verified(server.state)
    return senders.failures


def answers_alike(server: ServerProcess, primary: int) -> None:
    """Fails unless every frontend answers with the primary."""
    row = np.ones((1, 3), np.float32)
    # Each on a connection of its own, which the kernel gives to one of the frontends.
    for _ in range(8):
        with server.client() as client:
            result = client.infer(MODEL, row)
        assert (result.version, float(result["y"][0, 0])) == (str(primary), primary)


def verified(state: Path) -> int:
    """Returns how many entries the audit of a state folder has; fails unless it is whole."""
    key = PublicKey.read(state / signing.PUBLIC_FILE)
    kept = Checkpoint.parsed((state / checkpoint.FILE).read_bytes(), "checkpoint")
    return chain.verify(entries_in(state), {key.id: key}, [kept])
