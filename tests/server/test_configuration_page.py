"""docs/configuration.md names every setting, with the default that the server has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import msgspec

from gnomon_server.config import load, to_toml
from gnomon_server.settings import ModelSettings, Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
HEADING = re.compile(r"#+ `\[(.+)\]`$")
ROW = re.compile(r"\| `(\w+)` \| (?:`(.+?)`|(required)) \| .+ \|$")
# Names that users choose, in the heading of a table.
CHOSEN = re.compile(r"\b[A-Z]+\b")

Tables = dict[str, dict[str, str]]


def on_the_page() -> Tables:
    tables: Tables = {"": {}}
    name = ""
    for line in PAGE.read_text().splitlines():
        if heading := HEADING.match(line):
            name = CHOSEN.sub("*", heading[1])
            assert name not in tables, f"[{name}] stands twice"
            tables[name] = {}
        elif row := ROW.match(line):
            assert row[1] not in tables[name], f"{row[1]} of [{name}] stands twice"
            tables[name][row[1]] = row[2] or row[3]
    return tables


def in_the_server() -> Tables:
    return dict([*_tables("", Settings, leave=("models",)), *_tables("models.*", ModelSettings)])


def _tables(name: str, kind: type[msgspec.Struct], leave: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the tables of a struct by their names in a file: each the defaults of its own settings, as TOML."""
    rows: dict[str, str] = {}
    for field in msgspec.structs.fields(kind):
        below = f"{name}.{field.name}" if name else field.name
        inner = get_args(field.type)[-1] if get_origin(field.type) is dict else field.type
        if field.name in leave:
            continue
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _tables(below if inner is field.type else f"{below}.*", inner)
        else:
            rows[field.name] = _default(field)
    yield name, rows


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return json.dumps(msgspec.to_builtins(value))


def test_the_page_has_every_setting_and_its_default_and_no_other() -> None:
    assert on_the_page() == in_the_server()


def test_what_the_server_prints_without_any_setting_is_what_the_page_says() -> None:
    page = on_the_page()
    printed = to_toml(load({}, None, {}))
    table = ""
    for line in filter(None, printed.splitlines()):
        if line.startswith("["):
            table = line.strip("[]")
        else:
            name, _, value = line.partition(" = ")
            assert page[table][name] == value, f"{name} of [{table}]"


def test_the_example_on_the_page_is_accepted(tmp_path: Path) -> None:
    _, _, rest = PAGE.read_text().partition("```toml\n")
    file = tmp_path / "gnomon.toml"
    file.write_text(rest.partition("```")[0])
    settings = load({}, file, {})
    assert settings.policy_of("churn").latency == settings.policy.latency != 0
    assert settings.model("churn").max_batch == settings.model("other").max_batch != ModelSettings().max_batch
