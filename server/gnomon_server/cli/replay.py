"""`gnomon replay`: tries recorded requests on a version and reports as if it had been a shadow."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon_server.cli import offline
from gnomon_server.cli.screen import add_command, add_json, console, say
from gnomon_server.errors import InvalidRequest

if TYPE_CHECKING:
    from gnomon_protos import control_pb2
    from gnomon_server.config import Policy
    from gnomon_server.models.servable import Servable
    from gnomon_server.shadow.replay import Replay


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
    from gnomon_server.wire.messages import observing

    settings = config.load({"repository": arguments.repository}, arguments.config)
    paths = segments(arguments.file)
    model = _model(paths)
    shadow, policy = offline.load(settings, model, arguments.against), offline.policy_of(settings, model)
    replay = Replay(shadow, settings.mirror.batch_rows, observing(policy))
    cut = 0
    for path in paths:
        with Segment(path) as segment:
            if segment.head is not None:
                for one in segment:
                    replay.take(segment.head, one)
            cut += segment.cut
    if not replay.runs:
        raise InvalidRequest(f"{arguments.file}: expected a recording, found no run that is whole")
    reports = _reports(replay, policy, model, shadow)
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


def _reports(replay: Replay, policy: Policy, model: str, shadow: Servable) -> list[control_pb2.Report]:
    from gnomon_server.models.lifecycle import READY, UNLOADED
    from gnomon_server.wire.messages import VersionState

    states = {version: VersionState(model, version, UNLOADED) for version in replay.received}
    states[shadow.version] = VersionState(model, shadow.version, READY, digest=shadow.digest)
    since = datetime.fromtimestamp(replay.first_ns / 1e9, UTC)
    return offline.reports(model, states, shadow.version, replay.snapshot(), replay.received, since, policy)


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
