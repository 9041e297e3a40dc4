"""Predicates: conditions on the columns of a model's inputs, in a language of comparisons joined by `and`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from gnomon_server.errors import InvalidRequest

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
Value = float | bool | str

GRAMMAR: Final = "comparisons such as carrier = 'HA' and distance > 2300"
_COLUMN: Final = re.compile(r'\s*(?:([A-Za-z_][\w.]*)|"([^"]+)")(?:\[(\d{1,9})\])?')
_OPERATOR: Final = re.compile(r"\s*(<=|>=|!=|=|<|>)(?![<>=!])")
_VALUE: Final = re.compile(
    r"\s*(?:'((?:[^']|'')*)'|([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|(true|false)(?!\w))"
)
_AND: Final = re.compile(r"\s+and(?=\s)")


@dataclass(frozen=True)
class Condition:
    """That one column of a row compares with a value."""

    # Name of the input, and its column; None: it has only one.
    name: str
    column: int | None
    operator: Operator
    value: Value


def parse(text: str) -> tuple[Condition, ...]:
    """Returns the conditions that must all hold; raises InvalidRequest that says where the text goes wrong.

    A column is the name of an input, in double quotes where it is no word, and [i] of several columns. A value is a
    number, true, false, or a text in single quotes, of which two make one inside.
    """
    conditions, at = [], 0
    while True:
        condition, at = _condition(text, at)
        conditions.append(condition)
        if not text[at:].strip():
            return tuple(conditions)
        at = _matched(_AND, text, at, "'and' or the end").end()


def _condition(text: str, at: int) -> tuple[Condition, int]:
    column = _matched(_COLUMN, text, at, "an input")
    operator = _matched(_OPERATOR, text, column.end(), "one of = != < <= > >=")
    value = _matched(_VALUE, text, operator.end(), "a number, true, false or a 'text'")
    word, number, truth = value.groups()
    found: Value = float(number) if number else truth == "true" if truth else word.replace("''", "'")
    sign = operator[1]
    if sign not in ("=", "!=") and not number:
        raise InvalidRequest(f"expected a number after {sign}, received {value[0].strip()}")
    name, index = column[1] or column[2], int(column[3]) if column[3] else None
    return Condition(name, index, sign, found), value.end()  # type: ignore[arg-type]  # the pattern has no other


def _matched(pattern: re.Pattern[str], text: str, at: int, expected: str) -> re.Match[str]:
    found = pattern.match(text, at)
    if found is None:
        rest = text[at:].strip()
        received = repr(rest[:40]) if rest else "the end"
        raise InvalidRequest(f"expected {expected}, received {received} ({GRAMMAR})")
    return found
