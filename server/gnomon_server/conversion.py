"""Tables of settings turned into structs, with a path to whatever is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gnomon_server.errors import InvalidRequest

Kind = TypeVar("Kind")
# How msgspec names a field that nobody knows.
UNKNOWN = re.compile(r"unknown field `(.*)`")


class Wrong(InvalidRequest):
    """A setting that cannot be; `path` leads to it from the root of the settings."""

    def __init__(self, path: tuple[str, ...], text: str) -> None:
        super().__init__(text)
        self.path = path


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Returns two tables as one, and likewise the tables in them; what is above counts."""
    tables = {key for key in below.keys() & above if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return {**below, **above, **{key: overlaid(below[key], above[key]) for key in tables}}


def converted(values: Mapping[str, Any], kind: type[Kind], path: tuple[str, ...]) -> Kind:
    """Returns the values of the table at a path as a struct; raises Wrong."""
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        unknown = UNKNOWN.search(text)
        path = (
            *path,
            *filter(None, at.rstrip("`").replace("[...]", "").split(".")),
            *(unknown.groups() if unknown else ()),
        )
        raise Wrong(path, f"{'.'.join(path)}: {text[:1].lower()}{text[1:]}") from None
