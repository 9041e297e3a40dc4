"""`gnomon replay`: tries recorded requests on a version and reports as if it had been a shadow."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gnomon_server.cli.screen import add_command, add_json, console, say
from gnomon_server.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gnomon_protos import control_pb2
    from gnomon_server.config import Settings
    from gnomon_server.shadow.replay import Replay
    from gnomon_server.shadow.trial import Shadow

SOURCE: Final = "recording"


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "replay",
        "Try recorded requests on a version; exits with 1 if the recorded version gives other results than then.",
        "gnomon replay state/recordings/flights/2 --against 3 --repository models",
        run,
    )
    parser.add_argument("file", type=Path, help="a segment of a recording, or the folder of all its segments")
    parser.add_argument("--against", type=int, required=True, metavar="V", help="the version")
    parser.add_argument("--repository", metavar="DIR", help="where the version lies (default: models)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of the server, for policy and repository"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replays a recording."""
    from gnomon_server import config
    from gnomon_server.shadow.recording import Segment, segments
    from gnomon_server.shadow.replay import Replay

    settings = config.load({"repository": arguments.repository}, arguments.config)
    paths = segments(arguments.file)
    model = _model(paths)
    replay = Replay(_load(settings, model, arguments.against), settings.mirror.batch_rows)
    cut = 0
    for path in paths:
        with Segment(path) as segment:
            if segment.head is not None:
                for one in segment:
                    replay.take(segment.head, one)
            cut += segment.cut
    if not replay.runs:
        raise InvalidRequest(f"{arguments.file}: expected a recording, found no run that is whole")
    reports = _reports(replay, settings, model, arguments.against)
    if arguments.json:
        _say_json(replay, reports, cut)
    else:
        _show(replay, reports, cut)
    return 1 if replay.differing else 0


def _model(paths: list[Path]) -> str:
    """Returns the model of which the recording is."""
    from gnomon_server.shadow.recording import Segment

    models = set()
    for path in paths:
        with Segment(path) as segment:
            if segment.head is not None:
                models.add(segment.head.model)
    if len(models) != 1:
        raise InvalidRequest(f"{paths[0]}: expected a recording of one model, found {sorted(models) or 'none'}")
    return str(models.pop())


def _load(settings: Settings, model: str, version: int) -> Shadow:
    from gnomon_server.models.servable import load
    from gnomon_server.models.sources import source

    refs = {ref.version: ref for ref in source(settings.repository).versions() if ref.model == model}
    if version not in refs:
        where = f"model '{model}': version '{version}' not found in {settings.repository}"
        raise NotFound(f"{where}: expected one of {sorted(refs)}")
    return load(refs[version], settings.model(model))


def _reports(replay: Replay, settings: Settings, model: str, shadow: int) -> list[control_pb2.Report]:
    """Returns the report on each primary, oldest version first, as control makes it of a worker's counts."""
    from gnomon_server.control import reports
    from gnomon_server.control.comparison import Pair
    from gnomon_server.control.ledger import Ledger
    from gnomon_server.control.routes import Route
    from gnomon_server.models.lifecycle import READY
    from gnomon_server.wire.messages import SourceCount, VersionState, WorkerReport

    tallies = replay.snapshot()
    since = datetime.fromtimestamp(replay.first_ns / 1e9, UTC)
    ledger = Ledger(lambda: since)
    received = tuple(SourceCount(model, primary, shadow, SOURCE, n) for primary, n in replay.received.items())
    ledger.worker_reported(WorkerReport(SOURCE, tallies, received, (), 0, (), 0))
    return [
        reports.report(
            ledger.totals(Pair(model, tally.primary, shadow)),
            Route(model, primary=tally.primary, shadows={shadow: 1.0}),
            settings.policy_of(model),
            VersionState(model, shadow, READY),
        )
        for tally in tallies
    ]


def _show(replay: Replay, reports: list[control_pb2.Report], cut: int) -> None:
    from gnomon_server.cli import tables

    for report in reports:
        console().print(tables.report(report))
    say(_outcome(replay))
    if cut:
        say(f"cut: {cut:,} bytes at the end of a segment are no whole frame, as after a kill")


def _outcome(replay: Replay) -> str:
    if not replay.comparable:
        return f"replayed: {replay.runs:,} runs on a version that was not recorded"
    if replay.differing:
        return f"replayed: {replay.differing:,} of {replay.comparable:,} runs of the recorded version differ from then"
    return f"replayed: all {replay.comparable:,} runs of the recorded version gave exactly what was recorded"


def _say_json(replay: Replay, reports: list[control_pb2.Report], cut: int) -> None:
    from gnomon_server.control.reports import to_json

    shown = [json.loads(to_json(report)) for report in reports]
    counts = {"runs": replay.runs, "comparable": replay.comparable, "differing": replay.differing, "cut_bytes": cut}
    say(json.dumps({"reports": shown, **counts}, indent=2))
