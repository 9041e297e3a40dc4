from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.cli import routefile
from gnomon_server.cli.routefile import WantedRoute
from gnomon_server.errors import InvalidRequest


def read(folder: Path, text: str) -> list[WantedRoute]:
    file = folder / "routes.yaml"
    file.write_text(text)
    return routefile.read(file)


def test_a_file_says_primary_shadows_and_generation(tmp_path: Path) -> None:
    text = (
        "models:\n  flights:\n    primary: 3\n    shadows: {4: 0.1, 5: 1}\n    generation: 12\n  churn: {primary: 1}\n"
        "  tides: {primary: 1, canary: {2: 0.05}}\n"
    )
    file = tmp_path / "routes.yaml"
    assert read(tmp_path, text) == [
        WantedRoute("flights", f"{file}:2", 3, {4: 0.1, 5: 1.0}, 12),
        WantedRoute("churn", f"{file}:6", 1),
        WantedRoute("tides", f"{file}:7", 1, canary=2, weight=0.05),
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "expected 'models', received an empty file"),
        ("- a\n", 1, "the file: expected entries 'name: value'"),
        ("model: {}\n", 1, "the file: expected models, received 'model'"),
        (
            "models:\n  m:\n    primary: 1\n    shadow: {}\n",
            4,
            "expected primary, canary, shadows, generation, received 'shadow'",
        ),
        ("models:\n  m:\n    shadows: {}\n", 3, "model 'm': 'primary' is missing"),
        ("models:\n  m: {primary: one}\n", 2, "model 'm': primary: expected a positive integer, received 'one'"),
        ("models:\n  m: {primary: 0}\n", 2, "expected a positive integer, received '0'"),
        ("models:\n  m: {primary: '1'}\n", 2, "expected a positive integer, received '1'"),
        (
            "models:\n  m:\n    primary: 1\n    shadows:\n      2: 1.5\n",
            5,
            "shadow 2: expected a share in (0, 1], received '1",
        ),
        ("models:\n  m:\n    primary: 1\n    shadows:\n      2: 0\n", 5, "expected a share in (0, 1], received '0'"),
        (
            "models:\n  m:\n    primary: 1\n    shadows:\n      2: .nan\n",
            5,
            "expected a share in (0, 1], received '.nan'",
        ),
        (
            "models:\n  m:\n    primary: 1\n    shadows:\n      two: 1\n",
            5,
            "expected a positive integer, received 'two'",
        ),
        ("models:\n  m:\n    primary: 1\n    shadows: [2]\n", 4, "model 'm': shadows: expected entries"),
        (
            "models:\n  m:\n    primary: 2\n    shadows: {2: 1}\n",
            4,
            "version 2 is the primary and cannot shadow itself",
        ),
        (
            "models:\n  m:\n    primary: 1\n    canary: {2: 0.1, 3: 0.1}\n",
            4,
            "model 'm': canary: expected one version, received 2",
        ),
        (
            "models:\n  m:\n    primary: 1\n    canary:\n      2: 5\n",
            5,
            "canary 2: expected a share in (0, 1], received",
        ),
        ("models:\n  m:\n    primary: 2\n    canary: {2: 1}\n", 4, "is the primary and cannot be its canary"),
        ("models:\n  m: {primary: 1}\n  m: {primary: 2}\n", 3, "models: 'm' is there twice"),
        ("models:\n  ? [a]\n  : {primary: 2}\n", 2, "models: expected a name"),
        ("models:\n  m: {primary: 1\n", 3, "expected ',' or '}', but got '<stream end>'"),
        ("models:\n\tm: 1\n", 2, "found character"),
        ("models: !!python/object:os.system {}\n", 1, "models: expected entries"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(tmp_path, text)
    where = f"{tmp_path / 'routes.yaml'}:{line}: " if line else f"{tmp_path / 'routes.yaml'}: "
    assert str(caught.value).startswith(where)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(text=st.text(st.characters(codec="utf-8"), max_size=60))
def test_whatever_it_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("text")
    for content in (text, f"models: {text}", f"models:\n  m: {text}"):
        with suppress(InvalidRequest):
            assert all(entry.primary > 0 for entry in read(folder, content))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        routefile.read(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="expected UTF-8"):
        routefile.read(tmp_path / "binary.yaml")
