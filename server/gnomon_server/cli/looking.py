"""The commands that look: models, status, report."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gnomon_protos import control_pb2
from gnomon_server.cli.screen import add_command, add_control, add_json, console, control, say, say_json
from gnomon_server.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from gnomon_client import Control
    from gnomon_protos import control_pb2
    from gnomon_protos.tensors import Array
    from gnomon_server.models.servable import Servable

WATCH_SECONDS = 1.0
# Changes of the model in a written report.
SHOWN_CHANGES = 20
# Changes among which promotions are sought.
MOST_CHANGES = 1000


def add_parser(subparsers: Any) -> None:
    """Adds the commands."""
    models = add_command(subparsers, "models", "List the models.", "gnomon models", run_models)
    status = add_command(
        subparsers, "status", "Show every version: role, state, requests, verdict.", "gnomon status flights", run_status
    )
    status.add_argument("model", nargs="?", default="", help="only this model")
    report = add_command(
        subparsers,
        "report",
        "Show how a shadow compares, or what a promotion rests on.",
        "gnomon report flights --shadow 2 --watch\n  gnomon report flights --promotion --html promotion.html",
        run_report,
    )
    report.add_argument("model", help="the model")
    report.add_argument("--shadow", type=int, default=0, metavar="V", help="the shadow (default: the only one)")
    report.add_argument("--watch", action="store_true", help="show it again every second until Ctrl-C")
    report.add_argument(
        "--promotion",
        type=int,
        nargs="?",
        const=0,
        metavar="ID",
        help="as it was at a promotion, by the audit's entry (default: the last one)",
    )
    report.add_argument("--html", type=Path, metavar="FILE", help="write it with the model card, to attach to a ticket")
    divergent = add_command(
        subparsers,
        "divergent",
        "Show requests on which a shadow disagrees, a sample of them.",
        "gnomon divergent flights --shadow 2",
        run_divergent,
    )
    divergent.add_argument("model", help="the model")
    divergent.add_argument("--shadow", type=int, default=0, metavar="V", help="the shadow (default: the only one)")
    divergent.add_argument("--limit", type=int, default=20, metavar="N", help="at most this many (default: 20; 0: all)")
    divergent.add_argument(
        "--shrink",
        action="store_true",
        help="find the fewest features in which each must differ from a typical row, by running both versions here",
    )
    divergent.add_argument("--save", type=Path, metavar="DIR", help="with --shrink: write them as test vectors")
    divergent.add_argument(
        "--typical",
        type=Path,
        metavar="FILE",
        help="with --shrink: usual rows, as of --data of gate (default: the golden sample, or those that are kept)",
    )
    divergent.add_argument(
        "--repository", metavar="DIR", help="with --shrink: where the versions lie (default: models)"
    )
    divergent.add_argument(
        "--config", type=Path, metavar="FILE", help="with --shrink: TOML file of the server, for repository and models"
    )
    for parser in (models, status, report, divergent):
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
        for model in found.models:
            if model.drift:
                say(f"{model.name}: {model.drift}")
        if found.store_trouble:
            say(f"no route can be changed: {found.store_trouble}")
    return 0


def run_divergent(arguments: argparse.Namespace) -> int:
    """Shows requests on which a shadow disagrees."""
    from gnomon_server.cli import divergent

    if not arguments.shrink and (arguments.save or arguments.typical):
        raise InvalidRequest("--save and --typical: expected --shrink beside them")
    with control(arguments) as server:
        found = server.divergent(arguments.model, arguments.shadow, arguments.limit)
    if arguments.shrink:
        _shrink(arguments, list(found.requests))
    elif arguments.json:
        say(divergent.to_json(found.requests))
    else:
        console().print(divergent.table(found.requests))
    return 0


def _shrink(arguments: argparse.Namespace, requests: list[control_pb2.DivergentRequest]) -> None:
    from gnomon_server import config
    from gnomon_server.cli import offline, vectorfile, vectors
    from gnomon_server.cli.both import Both
    from gnomon_server.shadow.alignment import aligned

    if not requests:
        raise NotFound(f"model '{arguments.model}': no divergent request is kept")
    model, newest = arguments.model, requests[0]
    settings = config.load({"repository": arguments.repository}, arguments.config)
    primary = offline.load(settings, model, newest.primary)
    shadow = aligned(offline.load(settings, model, newest.shadow), settings.model(model).compare.align)
    both = Both(primary, shadow)
    usual = _usual(arguments, primary, offline.versions(settings, model)[primary.version].folder)
    # A shadow that outlived its primary has requests of both.
    mine = [one for one in requests if one.primary == newest.primary]
    found = vectors.shrunk(both, mine, usual)
    if arguments.json:
        say(vectorfile.to_json(both, found))
    else:
        console().print(vectorfile.table(found))
        if found.withheld or found.agreeing:
            say(f"left out: {found.withheld} withheld or incomplete, {found.agreeing} on which the versions agree here")
    if arguments.save and found.vectors:
        paths = vectorfile.save(both, found, arguments.save)
        if not arguments.json:
            say(f"saved: {paths[0]}, {paths[1]}")


def _usual(arguments: argparse.Namespace, primary: Servable, folder: str) -> Mapping[str, Array] | None:
    from gnomon_server.cli import dataset
    from gnomon_server.models import manifest

    if arguments.typical:
        return dataset.read(arguments.typical, None, primary.model, primary.signature).inputs
    golden = manifest.read(Path(folder)).golden_inputs
    return golden if golden and primary.signature.batched else None


def run_report(arguments: argparse.Namespace) -> int:
    """Shows how a shadow compares."""
    from gnomon_server.cli import tables

    with control(arguments) as server:
        if arguments.watch:
            if arguments.promotion is not None:
                raise InvalidRequest(
                    "expected either --watch or --promotion: what a promotion rests on does not change"
                )
            return _watch(server, arguments)
        if arguments.html:
            return _write(server, arguments)
        found = _found(server, arguments)
    if arguments.json:
        say_json(found)
    else:
        console().print(tables.report(found))
    return 0


def _found(server: Control, arguments: argparse.Namespace) -> control_pb2.Report:
    """Returns the report of now, or the one that a promotion rests on."""
    if arguments.promotion is None:
        return server.report(arguments.model, arguments.shadow)
    for entry in server.audit(arguments.model, MOST_CHANGES).entries:
        if entry.HasField("evidence") and arguments.promotion in (0, entry.id):
            return entry.evidence
    which = f"entry {arguments.promotion} of the audit" if arguments.promotion else "any promotion"
    raise NotFound(
        f"model '{arguments.model}': no report is kept of {which}: gnomon audit {arguments.model} lists them"
    )


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


def _write(server: Control, arguments: argparse.Namespace) -> int:
    from gnomon_server.cli import document
    from gnomon_server.control.times import rfc3339, utc_now

    found = _found(server, arguments)
    known = {version.version for version in server.models(found.model).models[0].versions}
    # A version may have left the repository since it was promoted.
    numbers = [version for version in (found.shadow, found.primary) if version in known]
    cards = {version: server.manifest(found.model, version) for version in numbers}
    statuses = {status.version: status for status in server.models(found.model).models[0].versions}
    changes = server.audit(found.model, SHOWN_CHANGES).entries
    made = rfc3339(utc_now())
    try:
        arguments.html.write_text(document.render(found, statuses, cards, changes, made), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{arguments.html}: cannot be written: {error.strerror}") from None
    say(f"{arguments.html}: version {found.shadow} in the shadow of version {found.primary}, with its model card")
    return 0
