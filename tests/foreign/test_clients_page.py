"""The programs of docs/clients.md do what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from foreign.programs import ROOT, installed
from servers import ServerProcess

PAGE = (ROOT / "docs" / "clients.md").read_text()
ADDRESS = "localhost:8001"
# The folders of what each kind of program is called, and how it is run with the name of a file.
PYTHONS = {"KServe": ROOT / ".venv-kserve/bin/python", "MLServer": ROOT / ".venv-mlserver/bin/python"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def programs() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Returns, by heading, what is fenced: pairs of language and text; what it prints comes last."""
    found = {}
    for part in PAGE.split("\n## ")[1:]:
        heading, _, rest = part.partition("\n")
        found[heading] = FENCE.findall(rest)
    return {heading: (blocks[-1][1], blocks[:-1]) for heading, blocks in found.items()}


PROGRAMS = programs()


def run(folder: Path, *command: object) -> str:
    """Runs a program of the page where its paths lead somewhere; returns what it prints."""
    node = installed("node")
    path = os.pathsep.join([str(installed("grpcurl").parent), str(node.parent), os.environ["PATH"]])
    modules = {"NODE_PATH": str(installed("grpc-js").parents[4]), "NODE_NO_WARNINGS": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **modules, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_the_page_prints_what_the_page_says(name: str, server: ServerProcess, tmp_path: Path) -> None:
    printed, blocks = PROGRAMS[name]
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    (tmp_path / "node_modules").symlink_to(installed("grpc-js").parents[4])
    said = ""
    for language, text in blocks:
        assert ADDRESS in text or language == "sh"
        program = tmp_path / f"program.{language}"
        program.write_text(text.replace(ADDRESS, server.grpc))
        match language:
            case "python":
                said += run(tmp_path, PYTHONS.get(name, sys.executable), program)
            case "sh":
                said += run(tmp_path, "bash", "-ec", program.read_text().replace("npx ", "node node_modules/.bin/"))
            case "js":
                said += run(tmp_path, "node", program)
            case "ts":
                said += run(tmp_path, "node", "node_modules/typescript/bin/tsc", *STRICT, program)
                said += run(tmp_path, "node", program)
    assert said.strip() == printed.strip()


STRICT = (
    *("--noEmit", "--strict", "--module", "nodenext", "--moduleResolution", "nodenext"),
    *("--target", "es2022", "--skipLibCheck", "--types", "node"),
)


def test_the_page_has_a_program_for_every_client_that_is_tested() -> None:
    assert {blocks[-1][0] for _, blocks in PROGRAMS.values()} == {"python", "sh", "js", "ts"}
    assert {"gnomon_client", "tritonclient", "KServe", "MLServer", "grpcurl", "Node", "TypeScript"} <= PROGRAMS.keys()
