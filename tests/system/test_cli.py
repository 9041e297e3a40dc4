"""The real `gnomon` command: what it prints, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from load import Load
from servers import ServerProcess, eventually
from tallying import at_rest, mirrored

from gnomon_server import config
from gnomon_server.settings import OutputSettings, Policy

GNOMON = str(Path(sys.executable).with_name("gnomon"))
NOBODY = "127.0.0.1:1"
# Runs the command line in an interpreter that lacks some modules, as an install without an extra does.
LACKING = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
from gnomon_server.cli import main
sys.exit(main({arguments!r}))
"""


def gnomon(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GNOMON, *arguments], capture_output=True, text=True, timeout=60, check=False)


def assert_is_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("gnomon")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose model m has version 1 answering 120 requests, version 2 agreeing and version 3 not."""
    folder = tmp_path_factory.mktemp("cli")
    for version, scale in ((1, 1.0), (2, 1.0), (3, 2.0)):
        models.write(folder / "models", "m", version, models.affine(scale))
    policy = "tolerance = 0.05\nmin_requests = 100\nmin_duration = 0\nblock = 1\ndedupe = false\n"
    text = f"grace = 1.0\n[policy]\n{policy}[mirror]\ndeadline = 60.0\n"
    with ServerProcess(folder / "models", folder / "state", config=text) as running:
        with running.control() as control:
            for version in (2, 3):
                mirrored(control, "m", version)
            with Load(running.grpc, "m", lambda n: np.full((1, 3), 1 + n % 5, np.float32)) as load:
                load.reach(120)
            for version in (2, 3):
                at_rest(control, "m", load.ended, version)
        yield running


@pytest.fixture
def at(server: ServerProcess) -> tuple[str, str]:
    return ("--control", server.control_address)


def table(text: str) -> list[dict[str, str]]:
    """The rows of a printed table whose cells hold no blanks."""
    head, *rows = [line.split() for line in text.splitlines()]
    return [dict(zip(head, row, strict=False)) for row in rows]


def test_models_lists_each_model_once(at: tuple[str, str]) -> None:
    done = gnomon("models", *at)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = table(done.stdout)
    assert (row["model"], row["primary"]) == ("m", "1")
    assert "2 (100% of requests), 3 (100% of requests)" in done.stdout


def test_status_shows_role_state_requests_and_verdict_of_each_version(at: tuple[str, str]) -> None:
    done = gnomon("status", "m", *at)
    assert done.returncode == 0
    one, two, three = table(done.stdout)
    assert (one["role"], one["state"], one["verdict"]) == ("primary", "ready", "-")
    assert int(one["answered"]) >= 120
    assert (two["role"], two["verdict"]) == ("shadow", "promote")
    assert (three["role"], three["verdict"]) == ("shadow", "reject")


def test_a_report_is_words_and_numbers_that_add_up(at: tuple[str, str]) -> None:
    done = gnomon("report", "m", "--shadow", "3", *at)
    assert done.returncode == 0
    assert "m: version 3 in the shadow of version 1 (100% of requests, since 20" in done.stdout
    assert "verdict: reject, " in done.stdout
    assert " (decided 20" in done.stdout
    assert " requests, 0.0% of rows were met before and left out" in done.stdout
    assert "agreement: 0.00%" in done.stdout
    assert " selected = " in done.stdout
    assert "isclose" in done.stdout


@pytest.mark.parametrize("command", [("models",), ("status",), ("report", "m", "--shadow", "2"), ("audit",)])
def test_what_is_piped_is_plain(command: tuple[str, ...], at: tuple[str, str]) -> None:
    done = gnomon(*command, *at)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    # Nor are there boxes, or lines that end in the blanks that filled a column's width to the right.
    assert done.stdout.isascii()


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("models",), "models"),
        (("status", "m"), "models"),
        (("report", "m", "--shadow", "2"), "outcomes"),
        (("audit",), "entries"),
    ],
)
def test_every_reading_command_prints_json(command: tuple[str, ...], key: str, at: tuple[str, str]) -> None:
    done = gnomon(*command, "--json", *at)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[key]


def test_a_report_as_json_says_zeros_too(at: tuple[str, str]) -> None:
    found = json.loads(gnomon("report", "m", "--shadow", "2", "--json", *at).stdout)
    outcomes = {name: int(count) for name, count in found["outcomes"].items()}
    assert outcomes.pop("selected") == sum(outcomes.values()) == outcomes["compared"] >= 120
    assert set(outcomes) >= {"dropped", "timeout", "shadow_error", "primary_error", "not_comparable", "pending"}
    assert found["verdict"]["decision"] == "promote"


def test_routes_are_changed_and_the_audit_tells_who_and_why(server: ServerProcess, at: tuple[str, str]) -> None:
    refused = gnomon("promote", "m", "3", *at)
    assert_is_one_line(refused, "model 'm' version '3': the verdict is 'reject'")

    promoted = gnomon("promote", "m", "2", "--reason", "it [agrees]", *at)
    assert promoted.stdout.startswith("m: primary is version 2; version 1 stays warm for a rollback")
    rolled_back = gnomon("rollback", "m", "--json", *at)
    assert json.loads(rolled_back.stdout)["after"]["primary"] == "1"
    off = gnomon("shadow", "m", "3", "--off", "--reason", "seen enough", *at)
    assert "version 3" not in off.stdout
    on = gnomon("shadow", "m", "3", "--sample", "0.25", *at)
    assert "version 3 shadows 25% of requests" in on.stdout
    for done in (promoted, rolled_back, off, on):
        assert (done.returncode, done.stderr) == (0, "")

    audit = gnomon("audit", "m", "--limit", "4", *at).stdout
    lines = audit.splitlines()[1:]
    assert [word for line in lines for word in line.split() if word in ("shadow", "promote", "rollback")] == [
        *("shadow", "shadow"),
        *("rollback", "promote"),
    ]
    assert "1 -> 2" in lines[3]
    assert "it [agrees]" in lines[3]
    with server.control() as control:
        assert all(control.actor in line for line in lines)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (("status", "nobody"), ("model 'nobody' not found", "['m']")),
        (("report", "nobody"), ("model 'nobody' not found",)),
        (("report", "m"), ("model 'm': name one of its shadows: [2, 3]",)),
        (("report", "m", "--shadow", "9"), ("version '9' is not a shadow", "[2, 3]")),
        (("shadow", "m", "9"), ("version '9' not found", "[1, 2, 3]")),
        (("shadow", "m", "1"), ("is the primary and cannot shadow itself",)),
        (("shadow", "m", "2", "--sample", "1.5"), ("sample: expected a share in (0, 1], received 1.5",)),
        (("shadow", "m", "2", "--sample", "0"), ("sample: expected a share in (0, 1], received 0",)),
        (("shadow", "m", "2", "--sample", "nan"), ("received nan",)),
        (("promote", "m", "3", "--force"), ("force needs a reason",)),
        (("audit", "--limit", "-1"), ("limit: expected >= 0, received -1",)),
    ],
    ids=" ".join,
)
def test_what_the_server_refuses_is_one_line(
    command: tuple[str, ...], parts: tuple[str, ...], at: tuple[str, str]
) -> None:
    assert_is_one_line(gnomon(*command, *at), *parts)


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ((), ("COMMAND", "gnomon --help")),
        (("nonsense",), ("invalid choice: 'nonsense'", "gnomon --help")),
        (("models", "--loud"), ("unrecognized arguments: --loud",)),
        (("promote", "m", "two"), ("invalid int value: 'two'", "gnomon promote --help")),
        (("shadow", "m", "2", "--sample", "much"), ("invalid float value: 'much'",)),
        (("models", "--control", NOBODY), (f"no server answers at {NOBODY}", "gnomon serve")),
        (("serve", "no/such/folder"), ("no/such/folder cannot be read: No such file or directory",)),
        (("serve", "--config", "no/such/file"), ("no/such/file: cannot be read: No such file or directory",)),
        (("serve", "--workers", "0", "--print-config"), ("workers",)),
        (("serve", "ftp://models"), ("expected a folder or one of file://, received 'ftp://models'",)),
        (("serve", ".", "--grpc", "nonsense"), ("expected HOST:PORT, received 'nonsense'",)),
    ],
    ids=" ".join,
)
def test_a_mistake_on_the_command_line_is_one_line(
    command: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_is_one_line(gnomon(*command), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("workers = [", ("gnomon.toml",)),
        ("wrokers = 2", ("unknown field `wrokers`",)),
        ("workers = 0", ("`int` >= 1", "workers")),
        ("[mirror]\ndeadline = -1", ("> 0", "mirror.deadline")),
        ("[policy]\ntolerance = 2", (":2: policy.tolerance", "< 1")),
        ("[models.m.policy]\ntolerance = 2", (":2: models.m.policy.tolerance", "< 1")),
        ("[models.m]\nleast = 2", ("models.m", "least")),
        ("[models.m.outputs.y]\ncomparator = 'tv'\ntolerance = 2", ("models.m", "<= 1.0", "tolerance")),
        ("[models.m.outputs.y]\ncomparator = 'tv'\ncosts = { a = 2 }", ("models.m", "->", "costs")),
        ("[models.m.session]\noptimization = 'most'", ("models.m", "session.optimization", "most")),
    ],
    ids=[
        "no TOML",
        "misspelt",
        "out of range",
        "in mirror",
        "in policy",
        "of a model",
        "misspelt",
        "an output",
        "costs",
        "in a session",
    ],
)
def test_a_wrong_config_file_is_one_line_that_names_the_setting(
    text: str, parts: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "gnomon.toml"
    file.write_text(text)
    assert_is_one_line(gnomon("serve", "--config", str(file), "--print-config"), str(file.name), *parts)


def test_an_address_that_is_taken_is_one_line(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    flags = ("serve", str(tmp_path / "models"), "--state", str(tmp_path / "state"))
    free = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--control", "127.0.0.1:0")
    for flag, address in (("--grpc", server.grpc), ("--http", server.http), ("--control", server.control_address)):
        assert_is_one_line(gnomon(*flags, *free, flag, address), f"cannot listen on {address}")


def test_a_state_that_another_server_uses_is_one_line(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    eventually(lambda: server.pid)
    state = Path(server.process.args[server.process.args.index("--state") + 1])  # type: ignore[union-attr, index, arg-type]
    free = ("--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--control", "127.0.0.1:0")
    done = gnomon("serve", str(tmp_path / "models"), "--state", str(state), *free)
    assert_is_one_line(done, f"another gnomon (process {server.pid}) uses this state")


def test_the_printed_config_gives_the_same_settings_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "first.toml"
    file.write_text(
        'grace = 2.5\n[policy]\nmin_requests = 7\n[models."a.b".policy]\ntolerance = 0.5\n'
        '[models."a.b".outputs.p]\ncomparator = "isclose"\nparameters = { rtol = 0.5 }\nthresholds = [0.1, 0.9]\n'
        'decisions = ["no", "\\"maybe\\"", "yes"]\ncosts = { "no -> yes" = 2 }\n'
    )
    monkeypatch.setenv("GNOMON_POLL", "0.5")
    printed = gnomon("serve", 'odd "name\\', "--config", str(file), "--workers", "3", "--print-config")
    assert (printed.returncode, printed.stderr) == (0, "")
    monkeypatch.delenv("GNOMON_POLL")
    again = tmp_path / "again.toml"
    again.write_text(printed.stdout)
    settings = config.load({}, again, {})
    assert (settings.repository, settings.workers, settings.poll, settings.grace) == ('odd "name\\', 3, 0.5, 2.5)
    assert settings.model("a.b").outputs["p"] == OutputSettings(
        "isclose",
        parameters={"rtol": 0.5},
        thresholds=(0.1, 0.9),
        decisions=("no", '"maybe"', "yes"),
        costs={"no -> yes": 2},
    )
    assert settings.policy_of("a.b") == Policy(tolerance=0.5, min_requests=7)
    assert gnomon("serve", "--config", str(again), "--print-config").stdout == printed.stdout


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        (["rich"], ["models"], "rich is not installed: pip install 'gnomon[server]'"),
        (["msgspec"], ["serve"], "msgspec is not installed: pip install 'gnomon[server]'"),
        (["onnxruntime"], ["serve", "."], "onnxruntime is not installed: pip install 'gnomon[server]'"),
        (["aiohttp"], ["serve", "."], "aiohttp is not installed: pip install 'gnomon[server]'"),
    ],
    ids=["rich", "msgspec", "onnxruntime", "aiohttp"],
)
def test_a_light_install_says_which_extra_to_install(
    missing: list[str], arguments: list[str], extra: str, at: tuple[str, str], tmp_path: Path
) -> None:
    asked = [*arguments, *at] if arguments[0] == "models" else arguments
    script = LACKING.format(missing=missing, arguments=asked)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert_is_one_line(done, extra)


def test_what_only_talks_to_a_server_needs_no_server_libraries(at: tuple[str, str]) -> None:
    libraries = ["onnxruntime", "onnx", "sklearn", "skl2onnx", "msgspec", "aiohttp", "opentelemetry", "pandas", "rich"]
    script = LACKING.format(missing=libraries, arguments=["status", "--json", *at])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_number_of_frontends_is_changed(at: tuple[str, str]) -> None:
    done = gnomon("scale", "2", *at)
    assert (done.returncode, done.stdout) == (0, "frontends that answer: 2\n")
    assert json.loads(gnomon("scale", "1", "--json", *at).stdout) == {"workers": 1}


def test_help_of_every_command_shows_an_example() -> None:
    for command in (
        "serve",
        "models",
        "status",
        "report",
        "audit",
        "shadow",
        "promote",
        "rollback",
        "scale",
        "convert",
        "demo",
        "gate",
    ):
        done = gnomon(command, "--help")
        assert done.returncode == 0
        assert f"example:\n  gnomon {command}" in done.stdout
