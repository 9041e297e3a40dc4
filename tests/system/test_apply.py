"""`gnomon apply`: routes as a file says, once and for all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx_models as models
import pytest
from load import Load
from servers import ServerProcess, eventually

from gnomon_client import Control, FailedPrecondition

GNOMON = str(Path(sys.executable).with_name("gnomon"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("apply")
    for version in (1, 2, 3):
        models.write(folder / "models", "m", version, models.affine(float(version)))
    models.write(folder / "models", "other", 1, models.affine(1.0))
    with ServerProcess(folder / "models", folder / "state", config="grace = 1.0\n") as running:
        yield running


@pytest.fixture
def control(server: ServerProcess) -> Iterator[Control]:
    """The control API of a server whose model m has version 1 as primary, and 2 and 3 in its shadow."""
    with server.control() as opened:
        generation = opened.models("m").models[0].route.generation
        opened.apply("m", generation, 1, {2: 1.0, 3: 1.0}, force=True, reason="begin anew")
        yield opened


def apply(server: ServerProcess, file: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    file.write_text(text)
    command = [GNOMON, "apply", str(file), "--control", server.control_address, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def roles(control: Control) -> tuple[int, dict[int, float]]:
    route = control.models("m").models[0].route
    return int(route.primary), {shadow.version: shadow.sample for shadow in route.shadows}


def test_a_difference_is_shown_then_made_and_then_there_is_none(
    server: ServerProcess, control: Control, tmp_path: Path
) -> None:
    text, file = "models:\n  m:\n    primary: 1\n    shadows: {2: 0.25}\n", tmp_path / "routes.yaml"
    generation = control.models("m").models[0].route.generation
    shown = apply(server, file, text, "--diff")
    expected = f"m (generation {generation})\n  - shadow 2: 1\n  - shadow 3: 1\n  + shadow 2: 0.25\n"
    assert (shown.returncode, shown.stdout) == (1, expected)
    assert roles(control) == (1, {2: 1.0, 3: 1.0})
    assert apply(server, file, text).returncode == 0
    assert roles(control) == (1, {2: 0.25})
    count = control.audit().entries[0].id
    for flags in ((), ("--diff",)):
        again = apply(server, file, text, *flags)
        assert (again.returncode, again.stdout) == (0, "every route is as the file says\n")
    assert control.audit().entries[0].id == count
    assert control.audit().entries[0].action == "apply"


def test_a_new_primary_needs_what_a_promotion_needs_and_comes_with_its_shadows_at_once(
    server: ServerProcess, control: Control, tmp_path: Path
) -> None:
    text, file = "models:\n  m:\n    primary: 2\n    shadows: {1: 1}\n", tmp_path / "routes.yaml"
    refused = apply(server, file, text)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"gnomon: {file}:2: model 'm' version '2': the verdict is 'keep watching'")
    with Load(server.grpc, "m") as load:
        load.reach(10)
        assert apply(server, file, text, "--force", "--reason", "CHG-1").returncode == 0
        load.reach(10)
    assert load.failures == []
    assert {answer.version for answer in load.answers} == {1, 2}
    newest = control.audit("m", 1).entries[0]
    assert (newest.action, newest.reason, newest.forced) == ("promote", "CHG-1", True)
    assert newest.evidence.shadow == 2
    assert roles(control) == (2, {1: 1.0})


def test_a_route_that_was_changed_meanwhile_is_never_overwritten(
    server: ServerProcess, control: Control, tmp_path: Path
) -> None:
    generation = control.models("m").models[0].route.generation
    control.shadow("m", 3, 0.5, reason="somebody else")
    with pytest.raises(FailedPrecondition, match=f"expected generation {generation}, found {generation + 1}"):
        control.apply("m", generation, 1, {2: 0.25})
    text, file = f"models:\n  m: {{primary: 1, shadows: {{2: 0.25}}, generation: {generation}}}\n", tmp_path / "r.yaml"
    for flags in ((), ("--diff",)):
        refused = apply(server, file, text, *flags)
        assert refused.returncode == 2
        assert f"{file}:2: model 'm': the route was changed since: expected generation {generation}" in refused.stderr
    assert roles(control) == (1, {2: 1.0, 3: 0.5})


def test_a_file_that_is_wrong_anywhere_changes_nothing(server: ServerProcess, control: Control, tmp_path: Path) -> None:
    before, file = control.audit(), tmp_path / "routes.yaml"
    for line, entry, message in (
        (3, "nobody: {primary: 1}", "model 'nobody' not found: expected one of ['m', 'other']"),
        (3, "other: {primary: 9}", "model 'other': version '9' not found: expected some of [1]"),
        (3, "other: {primary: 1, shadows: {7: 1}}", "model 'other': version '7' not found"),
        (3, "other: {primary: first}", "model 'other': primary: expected a positive integer, received 'first'"),
    ):
        text = f"models:\n  m: {{primary: 1, shadows: {{2: 0.1}}}}\n  {entry}\n"
        done = apply(server, file, text, "--force", "--reason", "x")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"{file}:{line}: {message}" in done.stderr
    assert control.audit() == before


def test_a_canary_is_shown_made_and_ended_by_the_file(server: ServerProcess, control: Control, tmp_path: Path) -> None:
    file, text = tmp_path / "routes.yaml", "models:\n  m: {primary: 1, canary: {3: 0.05}, shadows: {2: 1, 3: 1}}\n"
    shown = apply(server, file, text, "--diff")
    assert (shown.returncode, shown.stdout.splitlines()[1:]) == (1, ["  + canary 3: 0.05"])
    assert apply(server, file, text).returncode == 0
    status = control.models("m").models[0]
    assert (status.route.canary.version, status.route.canary.weight) == (3, 0.05)
    assert [version.role for version in status.versions] == ["primary", "shadow", "canary"]
    assert apply(server, file, text).stdout == "every route is as the file says\n"
    assert apply(server, file, "models:\n  m: {primary: 1, shadows: {2: 1, 3: 1}}\n").returncode == 0
    assert not control.models("m").models[0].route.HasField("canary")


def test_programs_read_the_difference_as_json(server: ServerProcess, control: Control, tmp_path: Path) -> None:
    done = apply(server, tmp_path / "r.yaml", "models:\n  m: {primary: 1, shadows: {3: 0.5}}\n", "--diff", "--json")
    (found,) = json.loads(done.stdout)
    assert (found["model"], found["before"], found["after"]) == (
        "m",
        {"primary": 1, "canary": {}, "shadows": {"2": 1.0, "3": 1.0}},
        {"primary": 1, "canary": {}, "shadows": {"3": 0.5}},
    )


def test_versions_that_a_file_leaves_out_stay_where_they_can_be_taken_up_again(
    server: ServerProcess, control: Control, tmp_path: Path
) -> None:
    file = tmp_path / "routes.yaml"
    assert apply(server, file, "models:\n  m: {primary: 1}\n").returncode == 0
    # They do not come back by themselves.
    models.write(server.repository, "other", 2, models.affine(1.0))
    eventually(lambda: control.models("other").models[0].route.shadows)
    assert roles(control) == (1, {})
    assert apply(server, file, "models:\n  m: {primary: 1, shadows: {2: 1}}\n").returncode == 0
    assert roles(control) == (1, {2: 1.0})
