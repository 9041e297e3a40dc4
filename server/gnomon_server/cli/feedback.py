"""`gnomon feedback`: what became known of requests after they were answered."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from gnomon_server.cli.screen import add_command, add_control, add_json, control, say, say_json
from gnomon_server.errors import InvalidRequest, quoted

if TYPE_CHECKING:
    from gnomon_protos import control_pb2

# Labels in one call.
BATCH: Final = 1000
COUNTS: Final = ("joined", "waiting", "late", "duplicate", "refused")
Item = tuple[str, list[Any], str]


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = add_command(
        subparsers,
        "feedback",
        "Say what became known of requests, by their ids; the report shows which version was right.",
        "gnomon feedback flights outcomes.csv",
        run,
    )
    parser.add_argument("model", help="the model")
    parser.add_argument(
        "file",
        help=".csv with the columns id, label and, if known, time; .jsonl with the same names, where a label may be a "
        "list, one for each row of the request; - reads either from the standard input",
    )
    parser.add_argument("--shadow", type=int, default=0, metavar="V", help="only for this shadow (default: for all)")
    add_json(parser)
    add_control(parser)


def run(arguments: argparse.Namespace) -> int:
    """Sends the labels; 0 if each of them fits."""
    from gnomon_protos import control_pb2

    totals: dict[int, control_pb2.Joined] = {}
    with opened(arguments.file) as (file, name):
        items = read(file, name)
        with control(arguments) as server:
            try:
                while batch := list(islice(items, BATCH)):
                    for one in server.feedback(arguments.model, batch, arguments.shadow).shadows:
                        _add(totals.setdefault(one.shadow, control_pb2.Joined(shadow=one.shadow)), one)
            finally:
                # What was taken before an error is taken.
                if totals:
                    _show(control_pb2.FeedbackResponse(shadows=totals.values()), arguments)
    if not totals:
        raise InvalidRequest(f"{name}: expected labels, found none")
    return 1 if any(one.refused or one.error for one in totals.values()) else 0


def _add(total: control_pb2.Joined, one: control_pb2.Joined) -> None:
    for name in COUNTS:
        setattr(total, name, getattr(total, name) + getattr(one, name))
    total.reasons.extend(one.reasons[: 3 - len(total.reasons)])
    total.error = one.error or total.error


def _show(found: control_pb2.FeedbackResponse, arguments: argparse.Namespace) -> None:
    if arguments.json:
        say_json(found)
        return
    for one in found.shadows:
        parts = [f"{getattr(one, name):,} {name}" for name in COUNTS if getattr(one, name) or name == "joined"]
        say(f"{arguments.model}: version {one.shadow}: {', '.join(parts)}")
        for line in (*one.reasons, *([one.error] if one.error else ())):
            say(f"  {line}")


@contextmanager
def opened(file: str) -> Iterator[tuple[IO[str], str]]:
    """Gives a file of labels with its name; raises InvalidRequest if it cannot be one."""
    if file == "-":
        yield sys.stdin, "standard input"
        return
    if Path(file).suffix not in (".csv", ".jsonl"):
        raise InvalidRequest(f"{file}: expected a .csv or .jsonl file, or - for the standard input")
    try:
        found = Path(file).open(encoding="utf-8-sig", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read: {error.strerror}") from None
    with found:
        yield found, file


def read(file: Iterable[str], name: str) -> Iterator[Item]:
    """Yields the labels of a file; raises InvalidRequest, naming the line, where it is not one of labels."""
    lines = iter(file)
    try:
        # Spreadsheets begin their exports with a byte order mark.
        first = next(lines, "").removeprefix("\ufeff")
        rest = _chained(first, lines)
        yield from _objects(rest, name) if first.lstrip().startswith("{") else _table(rest, name)
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name}: expected text in UTF-8") from None


def _chained(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _table(lines: Iterable[str], name: str) -> Iterator[Item]:
    reader = csv.DictReader(lines, strict=True)
    try:
        columns = reader.fieldnames or ()
        if missing := [column for column in ("id", "label") if column not in columns]:
            raise InvalidRequest(f"{name}: expected the columns id and label, found {list(columns)} without {missing}")
        for row in reader:
            where = f"{name}:{reader.line_num}"
            if None in row or row["id"] is None or row["label"] is None:
                raise InvalidRequest(f"{where}: expected {len(columns)} values")
            yield _item(row["id"], [row["label"]], row.get("time") or "", where)
    except csv.Error as error:
        raise InvalidRequest(f"{name}:{reader.line_num}: {error}") from None


def _objects(lines: Iterable[str], name: str) -> Iterator[Item]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            found = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidRequest(f"{where}: expected a JSON object: {error.msg}") from None
        except (ValueError, RecursionError):
            raise InvalidRequest(f"{where}: expected a JSON object: too long a number, or too deep") from None
        if not isinstance(found, dict) or not isinstance(found.get("id"), str) or "label" not in found:
            raise InvalidRequest(f'{where}: expected an object with "id", a text, and "label"')
        labels = found["label"] if isinstance(found["label"], list) else [found["label"]]
        if strange := [label for label in labels if not isinstance(label, str | int | float)]:
            raise InvalidRequest(f"{where}: label: expected text, a number or a list of them, received {strange[0]!r}")
        yield _item(found["id"], labels, found.get("time", ""), where)


def _item(name: str, labels: list[Any], time: object, where: str) -> Item:
    try:
        "".join((name, *map(str, labels))).encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where}: expected text in UTF-8") from None
    return name, labels, _time(time, where)


def _time(value: object, where: str) -> str:
    """Returns a time, by RFC 3339 or in seconds since the epoch, by RFC 3339."""
    if value == "":
        return ""
    try:
        return datetime.fromtimestamp(float(str(value)), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        expected = "one by RFC 3339 such as 2026-01-31T12:00:00Z, or seconds since 1970"
        raise InvalidRequest(f"{where}: time: expected {expected}, received {quoted(str(value))}")
    return found.isoformat()
