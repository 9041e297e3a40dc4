"""`gnomon replay`: tries recorded requests on a version and reports as if it had been a shadow."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon_server.cli import offline
from gnomon_server.cli.screen import add_command, add_json, console, say

if TYPE_CHECKING:
    from gnomon_protos import control_pb2
    from gnomon_server.settings import Settings
    from gnomon_server.shadow.replay import Replay
    from gnomon_server.shadow.trial import Shadow


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
    parser.add_argument("--remote", metavar="ADDR", help="try it at an endpoint of the Open Inference Protocol")
    parser.add_argument(
        "--all-agree", action="store_true", help="exit with 1 unless every request was compared and agrees"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file of the server, for policy and repository"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replays a recording."""
    from gnomon_server import config
    from gnomon_server.shadow.recording import segments
    from gnomon_server.shadow.replay import Replay
    from gnomon_server.wire.plans import observing

    settings = config.load({"repository": arguments.repository}, arguments.config)
    paths = segments(arguments.file)
    model = offline.recorded_model(paths)
    shadow, policy = _shadow(arguments, settings, model), offline.policy_of(settings, model)
    replay = Replay(shadow, settings.mirror.batch_rows, observing(policy))
    cut = offline.replay(replay, paths)
    reports = offline.replayed(replay, shadow, policy)
    if arguments.json:
        _say_json(replay, reports, cut)
    else:
        _show(replay, reports, cut)
    return 1 if replay.differing or (arguments.all_agree and not all(map(_agrees, reports))) else 0


def _agrees(report: control_pb2.Report) -> bool:
    compared = bool(report.outcomes.compared == report.outcomes.selected)
    return compared and not any(output.disagreements for output in report.outputs)


def _shadow(arguments: argparse.Namespace, settings: Settings, model: str) -> Shadow:
    from gnomon_server.shadow.alignment import aligned

    return aligned(_loaded(arguments, settings, model), settings.model(model).compare.align)


def _loaded(arguments: argparse.Namespace, settings: Settings, model: str) -> Shadow:
    if not arguments.remote:
        return offline.load(settings, model, arguments.against)
    import msgspec

    from gnomon_server.settings import RemoteSettings
    from gnomon_server.shadow.remote import Remote

    known = settings.model(model).remotes.get(str(arguments.against))
    remote = known or RemoteSettings(arguments.remote, version=str(arguments.against))
    return Remote(
        model, arguments.against, msgspec.structs.replace(remote, address=arguments.remote), settings.mirror.deadline
    )


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
