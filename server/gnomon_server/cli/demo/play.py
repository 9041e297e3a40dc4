"""The demo's course: train, publish, serve, shadow, watch, promote, report. Nothing in it is scripted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console, RenderableType
from rich.live import Live

from gnomon_client import ClientError, Control
from gnomon_converters import publish
from gnomon_protos import control_pb2
from gnomon_server.cli.demo import flights, recipes, words
from gnomon_server.cli.demo.ending import Ending, Options
from gnomon_server.cli.demo.stage import ServerProcess, TrafficProcess, memory
from gnomon_server.cli.demo.traffic import MODEL
from gnomon_server.cli.screen import console
from gnomon_server.errors import NotReady

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# Rows of the months after training that verify each conversion.
SAMPLE: Final = 2000
# However often one looks, the verdict errs no more often.
SCREEN_SECONDS: Final = 0.5
PLAIN_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 180.0
# For the verdicts; without one by then, the demo ends as it stands.
WATCH_SECONDS: Final = 60.0
# Requests that the new primary answers before the curtain falls.
AFTERWARDS: Final = 500


class Screen:
    """A live table on a terminal, a line now and then elsewhere."""

    def __init__(self, on: Console) -> None:
        self._console = on
        self._live = Live(console=on, auto_refresh=False, transient=False) if on.is_terminal else None
        self._shown = 0.0

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, table: RenderableType, line: str) -> None:
        """Shows how things stand."""
        if self._live:
            self._live.update(table, refresh=True)
        elif time.monotonic() - self._shown > PLAIN_SECONDS:
            self._shown = time.monotonic()
            self._console.print(line)


def play(options: Options) -> int:
    """Plays it; returns 0 if version 2 earned its promotion, version 3 was rejected and no request failed."""
    started, screen = time.monotonic(), console()
    screen.print(words.opening(options))
    data = flights.load()
    trained = _train(data, options.broken, screen)
    with tempfile.TemporaryDirectory(prefix="gnomon-demo-") as folder:
        repository = Path(folder) / "models"
        for version in (1, 2):
            _publish(trained[version], data, repository, version, screen)
        with ServerProcess(Path(folder), repository, options.requests) as server, Control(server.control) as control:
            screen.print(words.serving(server))
            _wait_for_shadow(control, 2)
            resting = memory(server.pid)
            with TrafficProcess(server.grpc, options.rate) as traffic:
                _publish(trained[3], data, repository, 3, screen)
                _wait_for_shadow(control, 3)
                reports = _watch(control, traffic, options, screen)
                refusal = _decide(control, reports, traffic, screen)
                counts = traffic.stop()
            audit = control.audit(MODEL)
    own, live = _accuracies(trained, data, options.broken)
    ending = Ending(reports, refusal, counts, own, live, audit, resting, time.monotonic() - started)
    screen.print(words.closing(ending))
    return 0 if ending.good else 1


def _train(data: flights.Flights, broken: int | None, screen: Console) -> dict[int, Pipeline]:
    trained: dict[int, Pipeline] = {}
    for version in recipes.RECIPES:
        start = time.monotonic()
        trained[version] = recipes.train(version, data, broken == version)
        screen.print(words.trained(version, recipes.recipe(version, broken == version), time.monotonic() - start))
    return trained


def _publish(model: Pipeline, data: flights.Flights, repository: Path, version: int, screen: Console) -> None:
    sample = data.months(*flights.TRAFFIC).sample(SAMPLE, seed=version)
    published = publish(
        model, name=MODEL, repository=repository, sample=sample.features, labels=sample.late, version=version
    )
    screen.print(words.published(published))


def _wait_for_shadow(control: Control, version: int) -> None:
    """Waits until a version is compared; the server finds it in the repository by itself."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        (model,) = control.models(MODEL).models
        states = {found.version: found.state for found in model.versions if found.role == "shadow"}
        if states.get(version) == "ready":
            return
        if states.get(version) == "failed":
            raise NotReady(f"demo: version {version} cannot be served; see the log above")
        time.sleep(SCREEN_SECONDS / 5)
    raise NotReady(f"demo: version {version} was not in the shadow within {PATIENCE_SECONDS:g} s")


def _watch(
    control: Control, traffic: TrafficProcess, options: Options, screen: Console
) -> dict[int, control_pb2.Report]:
    """Shows the comparisons as they grow until each has a verdict; returns the last look at both."""
    deadline = time.monotonic() + WATCH_SECONDS + options.requests / options.rate
    with Screen(screen) as shown:
        while True:
            reports = {version: control.report(MODEL, version) for version in (2, 3)}
            shown.show(words.board(reports, traffic.counts, options), words.line(reports, traffic.counts))
            if all(report.verdict.decided for report in reports.values()) or time.monotonic() > deadline:
                return reports
            if not traffic.alive:
                raise NotReady("demo: the application ended early; see its error above")
            time.sleep(SCREEN_SECONDS)


def _decide(
    control: Control, reports: Mapping[int, control_pb2.Report], traffic: TrafficProcess, screen: Console
) -> str:
    """Asks for what each verdict allows, while the traffic goes on; returns the server's words if it refuses."""
    screen.print(words.look(reports))
    refusal = ""
    try:
        control.promote(MODEL, 2, reason="agrees with version 1 on live traffic")
    except ClientError as error:
        refusal = error.details
    if reports[3].verdict.decision == "reject":
        control.shadow(MODEL, 3, off=True, reason="rejected: disagrees with version 1 on live traffic")
    before, deadline = traffic.counts, time.monotonic() + PATIENCE_SECONDS
    while traffic.alive and time.monotonic() < deadline:
        now = traffic.counts
        if now.answered - before.answered >= AFTERWARDS:
            break
        time.sleep(SCREEN_SECONDS / 5)
    return refusal


def _accuracies(
    trained: Mapping[int, Pipeline], data: flights.Flights, broken: int | None
) -> tuple[dict[int, float], dict[int, float]]:
    later = data.months(*flights.TRAFFIC).sample(20 * SAMPLE, seed=0)
    own = {v: recipes.own_accuracy(v, model, later, broken == v) for v, model in trained.items()}
    live = {v: float(model.score(later.features, later.late)) for v, model in trained.items()}
    return own, live
