"""`gnomon drift`: how a model's traffic differs from the reference that its primary was converted with."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gnomon_server.cli.screen import add_command, add_control, add_json, console, control, say, say_json
from gnomon_server.errors import InvalidRequest

if TYPE_CHECKING:
    from gnomon_protos import control_pb2


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "drift",
        "Show which features and outputs of a model have drifted from the reference of its primary.",
        "gnomon drift flights --windows 7",
        run,
    )
    parser.add_argument("model", help="the model")
    parser.add_argument(
        "--windows", type=int, default=1, metavar="N", help="the last N windows (default: 1; 0: all that are kept)"
    )
    add_json(parser)
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Shows what is known."""
    if arguments.windows < 0:
        raise InvalidRequest(f"--windows: expected >= 0, received {arguments.windows}")
    with control(arguments) as server:
        found = server.drift(arguments.model, arguments.windows)
    if arguments.json:
        say_json(found)
        return 0
    for line in head(found):
        say(line)
    from gnomon_server.cli import tables

    for window in found.windows:
        alarms = sum(bool(feature.alarms) for feature in window.features)
        say("")
        say(f"{window.since} to {window.until}, {window.rows:,} rows: {alarms} of {len(window.features)} drift")
        console().print(tables.drift(window))
    return 0


def head(found: control_pb2.DriftReport) -> list[str]:
    """Returns what is counted, and what is awaited."""
    name = f"{found.model}: the traffic of version {found.version}"
    if found.reason:
        return [f"{name} is not watched: {found.reason}"]
    window = f"windows of {_span(found.window_seconds)}"
    waiting = f"{found.waiting_rows:,} rows wait for theirs to be over and to have {found.least_rows}"
    return [f"{name}, in {window}; {waiting}"]


def _span(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} seconds"
