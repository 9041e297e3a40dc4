"""The commands that change a running server: shadow, canary, deliver, promote, rollback, scale."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from gnomon_server.cli.screen import add_command, add_control, add_json, control, say, say_json
from gnomon_server.errors import InvalidRequest

if TYPE_CHECKING:
    from gnomon_protos import control_pb2

# A new frontend loads every version before it answers.
SCALE_SECONDS = 150.0
# What can be done with a delivery that is under way.
DELIVERY = ("next", "pause", "resume", "abort")


def add_parser(subparsers: Any) -> None:
    """Adds the commands."""
    shadow = add_command(
        subparsers,
        "shadow",
        "Mirror a model's requests to a version, or stop it.",
        "gnomon shadow flights 2 --sample 0.1",
        run_shadow,
    )
    canary = add_command(
        subparsers,
        "canary",
        "Have a version answer a part of a model's requests, or stop it.",
        "gnomon canary flights 2 --weight 5\n  gnomon canary flights --off",
        run_canary,
    )
    deliver = add_command(
        subparsers,
        "deliver",
        "Make a version the primary step by step, as the settings say; or go on, wait or stop with it.",
        "gnomon deliver flights 2\n  gnomon deliver flights pause",
        run_deliver,
    )
    promote = add_command(
        subparsers,
        "promote",
        "Make a version the primary; refused unless the verdict on it says promote.",
        "gnomon promote flights 2",
        run_promote,
    )
    rollback = add_command(
        subparsers, "rollback", "Return to the previous primary.", "gnomon rollback flights", run_rollback
    )
    scale = add_command(
        subparsers,
        "scale",
        "Change the number of frontends until the next start; those that leave finish their calls.",
        "gnomon scale 4",
        run_scale,
    )
    scale.add_argument("workers", type=int, help="how many frontends")
    add_json(scale)
    add_control(scale)
    for parser in (shadow, canary, deliver, promote, rollback):
        parser.add_argument("model", help="the model")
        if parser is canary:
            parser.add_argument("version", type=int, nargs="?", default=0, help="the version; with --off, any")
        elif parser is deliver:
            parser.add_argument("version", help=f"the version, or one of {', '.join(DELIVERY)}")
        elif parser is not rollback:
            parser.add_argument("version", type=int, help="the version")
        parser.add_argument("--reason", default="", help="why, for the audit")
        add_json(parser)
        add_control(parser)
    shadow.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="in (0, 1] (default: 1)")
    shadow.add_argument("--off", action="store_true", help="end the mirroring")
    canary.add_argument("--weight", type=float, metavar="PERCENT", help="of the requests, in (0, 100]")
    canary.add_argument("--off", action="store_true", help="have the primary answer every request again")
    shadow.add_argument(
        "--force", action="store_true", help="also if its signature does not fit: requests count as not comparable"
    )
    promote.add_argument("--force", action="store_true", help="without a favourable verdict; needs --reason")


def run_shadow(arguments: argparse.Namespace) -> int:
    """Mirrors requests to a version, or stops it."""
    sample, off, force = arguments.sample, arguments.off, arguments.force
    with control(arguments) as server:
        change = server.shadow(arguments.model, arguments.version, sample, off, arguments.reason, force=force)
    return _show(change, arguments)


def run_canary(arguments: argparse.Namespace) -> int:
    """Has a version answer a part of the requests, or stops it."""
    model, version, weight, reason = arguments.model, arguments.version, arguments.weight, arguments.reason
    if arguments.off == (weight is not None):
        raise InvalidRequest("expected either --weight PERCENT or --off")
    if not arguments.off and not version:
        raise InvalidRequest("version: expected the version that is to be the canary, received none")
    if weight is not None and not 0 < weight <= 100:
        raise InvalidRequest(f"--weight: expected percent in (0, 100], received {weight:g}")
    with control(arguments) as server:
        change = server.canary(model, version, weight=(weight or 0) / 100, off=arguments.off, reason=reason)
    return _show(change, arguments)


def run_deliver(arguments: argparse.Namespace) -> int:
    """Begins a delivery, or does something with it."""
    word = arguments.version
    if word not in DELIVERY and not (word.isascii() and word.isdecimal() and int(word)):
        raise InvalidRequest(f"expected a version, or one of {', '.join(DELIVERY)}, received '{word}'")
    version, action = (0, word) if word in DELIVERY else (int(word), "")
    with control(arguments) as server:
        change = server.deliver(arguments.model, version, action, reason=arguments.reason)
    return _show(change, arguments)


def run_promote(arguments: argparse.Namespace) -> int:
    """Makes a version the primary."""
    with control(arguments) as server:
        change = server.promote(arguments.model, arguments.version, force=arguments.force, reason=arguments.reason)
    return _show(change, arguments)


def run_rollback(arguments: argparse.Namespace) -> int:
    """Returns to the previous primary."""
    with control(arguments) as server:
        change = server.rollback(arguments.model, reason=arguments.reason)
    return _show(change, arguments)


def run_scale(arguments: argparse.Namespace) -> int:
    """Changes the number of frontends."""
    with control(arguments) as server:
        scaled = server.scale(arguments.workers, timeout=SCALE_SECONDS)
    if arguments.json:
        say_json(scaled)
    else:
        say(f"frontends that answer: {scaled.workers}")
    return 0


def _show(change: control_pb2.RouteChange, arguments: argparse.Namespace) -> int:
    from gnomon_server.cli import tables

    if arguments.json:
        say_json(change)
    else:
        say(f"{arguments.model}: {tables.route(change)}")
    return 0
