"""The commands that look: models, status, report, audit."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from gnomon_server.cli.screen import add_command, add_control, add_json, console, control, say_json

if TYPE_CHECKING:
    from gnomon_client import Control

WATCH_SECONDS = 1.0


def add_parser(subparsers: Any) -> None:
    """Adds the commands."""
    models = add_command(subparsers, "models", "List the models.", "gnomon models", run_models)
    status = add_command(
        subparsers, "status", "Show every version: role, state, requests, verdict.", "gnomon status flights", run_status
    )
    status.add_argument("model", nargs="?", default="", help="only this model")
    report = add_command(
        subparsers, "report", "Show how a shadow compares.", "gnomon report flights --shadow 2 --watch", run_report
    )
    report.add_argument("model", help="the model")
    report.add_argument("--shadow", type=int, default=0, metavar="V", help="the shadow (default: the only one)")
    report.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")
    audit = add_command(subparsers, "audit", "List the changes, newest first.", "gnomon audit flights", run_audit)
    audit.add_argument("model", nargs="?", default="", help="only this model")
    audit.add_argument("--limit", type=int, default=100, metavar="N", help="at most this many (default: 100)")
    for parser in (models, status, report, audit):
        add_json(parser)
        add_control(parser)


def run_models(arguments: argparse.Namespace) -> int:
    """Lists the models."""
    with control(arguments) as server:
        found = server.models()
    if arguments.json:
        say_json(found)
    else:
        from gnomon_server.cli import tables

        console().print(tables.models(found.models))
    return 0


def run_status(arguments: argparse.Namespace) -> int:
    """Shows every version."""
    with control(arguments) as server:
        found = server.models(arguments.model)
    if arguments.json:
        say_json(found)
    else:
        from gnomon_server.cli import tables

        console().print(tables.status(found.models))
    return 0


def run_report(arguments: argparse.Namespace) -> int:
    """Shows how a shadow compares."""
    from gnomon_server.cli import tables

    with control(arguments) as server:
        if arguments.watch:
            return _watch(server, arguments)
        found = server.report(arguments.model, arguments.shadow)
    if arguments.json:
        say_json(found)
    else:
        from gnomon_server.cli import tables

        console().print(tables.report(found))
    return 0


def run_audit(arguments: argparse.Namespace) -> int:
    """Lists the changes."""
    with control(arguments) as server:
        found = server.audit(arguments.model, arguments.limit)
    if arguments.json:
        say_json(found)
    else:
        from gnomon_server.cli import tables

        console().print(tables.audit(found.entries))
    return 0


def _watch(server: Control, arguments: argparse.Namespace) -> int:
    if arguments.json:
        while True:
            say_json(server.report(arguments.model, arguments.shadow))
            time.sleep(WATCH_SECONDS)
    from rich.live import Live

    from gnomon_server.cli import tables

    screen = console()
    if not screen.is_terminal:
        while True:
            screen.print(tables.report(server.report(arguments.model, arguments.shadow)))
            screen.file.flush()
            time.sleep(WATCH_SECONDS)
    with Live(console=screen, auto_refresh=False) as live:
        while True:
            live.update(tables.report(server.report(arguments.model, arguments.shadow)), refresh=True)
            time.sleep(WATCH_SECONDS)
