"""What commands share: their parsers, their words on the screen, their way to the control API."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gnomon_server.errors import GnomonError, NotReady

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

    from gnomon_client import Control

DEFAULT_CONTROL = "127.0.0.1:8003"


class RemoteError(GnomonError):
    """What the server answered instead of doing it."""


def add_command(
    subparsers: Any, name: str, about: str, example: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Adds a command with its help and an example; returns its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=about.partition(";")[0].rstrip("."),
        description=about,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_control(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that says where the control API is."""
    parser.add_argument(
        "--control",
        metavar="ADDR",
        default=os.environ.get("GNOMON_CONTROL", DEFAULT_CONTROL),
        help=f"the server's control API (default: {DEFAULT_CONTROL})",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds the flag for output that programs read."""
    parser.add_argument("--json", action="store_true", help="print JSON")


@contextmanager
def control(arguments: argparse.Namespace) -> Iterator[Control]:
    """Gives the control API; its errors become GnomonError with one line."""
    from gnomon_client import ClientError, Control

    with Control(arguments.control) as connection:
        try:
            yield connection
        except ClientError as error:
            if error.status == "UNAVAILABLE" and not _listens(arguments.control):
                hint = "start one with 'gnomon serve', or name it with --control"
                raise NotReady(f"no server answers at {arguments.control}: {hint}") from None
            raise RemoteError(error.details) from None


def _listens(address: str) -> bool:
    """Whether anybody listens there: an UNAVAILABLE is then a server's own word, as of a store that is away."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except (OSError, ValueError):
        return False
    return True


def console() -> Console:
    """Returns a console for tables: as wide as the terminal, or wide enough for a file."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160)


def say(text: str) -> None:
    """Prints plain text at once, also into a pipe."""
    print(text, flush=True)  # noqa: T201 - this is the command line


def say_json(message: Message) -> None:
    """Prints a message as JSON with the names of its proto."""
    from google.protobuf import json_format

    say(json_format.MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def styled(word: str, styles: Mapping[str, str]) -> str:
    """Returns a word in rich's markup."""
    return f"[{styles[word]}]{word}[/]" if word in styles else word
