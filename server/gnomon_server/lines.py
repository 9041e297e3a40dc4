"""Lines: where in a TOML file a setting stands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

Path = tuple[str, ...]


def find(text: str, *paths: Path) -> int:
    """Returns the line, from 1, of the setting at one of these paths, or of the nearest table around it; 0: none."""
    entries = list(_entries(text))
    # How much of a path is missing, then which path, then where: the first line that says it.
    found = [
        (len(path) - len(entry), order, line)
        for order, path in enumerate(paths)
        for entry, line in entries
        if path[: len(entry)] == entry
    ]
    return min(found, default=(0, 0, 0))[2]


def _entries(text: str) -> Iterator[tuple[Path, int]]:
    """Yields the path and the line of every table and key that begins a line."""
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _keys(stripped.strip("[]").partition("]")[0])
            yield table, number
        elif "=" in stripped and not stripped.startswith("#"):
            yield table + _keys(stripped.partition("=")[0]), number


def _keys(dotted: str) -> Path:
    """Returns the parts of a dotted key; nothing for what is none, such as a line of a text that has many."""
    try:
        value = tomllib.loads(f"{dotted} = 0")
    except tomllib.TOMLDecodeError:
        return ("",)
    keys: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        keys.append(key)
    return tuple(keys)
