"""README and the pages of docs/ lead to each other, and to everything that there is."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path

import pytest

from gnomon_server.cli import COMMANDS
from gnomon_server.shadow.comparators import COMPARATORS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = (line.lstrip("#").strip().lower() for line in page.read_text().splitlines() if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for file, anchor in LINK.findall(page.read_text()):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {file}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {file}#{anchor}"


def test_readme_names_every_page() -> None:
    linked = {Path(file).name for file, _ in LINK.findall(README.read_text()) if file.startswith("docs/")}
    assert {page.name for page in PAGES} <= linked


def test_readme_names_every_command() -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    for module in COMMANDS:
        import_module(module).add_parser(subparsers)
    text = README.read_text()
    assert [name for name in subparsers.choices if f"gnomon {name}" not in text] == []


def test_the_page_of_comparators_names_each_with_its_parameters() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "comparators.md").read_text().splitlines() if "`" in line]
    told = {name: row[3] for row in rows if len(row) == 4 for name in re.findall(r"`(\w+)`", row[0])}
    assert told.keys() == COMPARATORS.keys()
    for name, entry in COMPARATORS.items():
        assert set(re.findall(r"`(\w+)`", told[name])) == set(entry.parameters), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_a_sentence_that_says_what_it_is_for(page: Path) -> None:
    title, blank, first = page.read_text().splitlines()[:3]
    assert title.startswith("# ")
    assert not blank
    assert re.match(r"[A-Z`].*", first), first
