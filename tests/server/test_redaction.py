from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server import cli
from gnomon_server.control.store.postgres import PostgresStore
from gnomon_server.errors import InvalidRequest, NotReady
from gnomon_server.redaction import redacted, without_secrets

URLS = [
    "postgresql://me:hunter2@db.example/gnomon",
    "postgresql://db.example/gnomon?user=me&password=hunter2",
    "postgresql://me:hunter2@db.example/gnomon?sslpassword=hunter2&sslmode=require",
    "postgresql://:hunter2@db.example/gnomon",
    "postgresql://me:a@hunter2@db.example/gnomon",
    "host=db.example password='hunter2' user=me",
]


@pytest.mark.parametrize("url", URLS)
def test_a_password_is_hidden_and_the_rest_is_shown(url: str) -> None:
    shown = redacted(url)
    assert "hunter2" not in shown
    assert "***" in shown
    assert "db.example" in shown


@pytest.mark.parametrize("url", ["", "postgresql://db.example/gnomon", "postgresql://me@db.example:5432/gnomon"])
def test_an_address_without_a_password_stays_as_it_is(url: str) -> None:
    assert redacted(url) == url


@given(st.text(st.characters(codec="ascii", exclude_characters="%/?#[]"), min_size=8))
def test_no_password_is_left_in_what_is_said_of_its_address(password: str) -> None:
    url = f"postgresql://me:{password}@db.example/gnomon"
    assert password not in redacted(url)
    assert password not in without_secrets(f'it went wrong: "{password}"', url)


def test_the_printed_settings_hide_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gnomon.toml"
    file.write_text(f'store = "{URLS[0]}"\n[alerts]\nwebhook = "https://me:hunter2@hooks.example/1"\n')
    assert cli.main(["serve", "--config", str(file), "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "hunter2" not in printed
    assert 'store = "postgresql://me:***@db.example/gnomon"' in printed


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://me:hunter2%zz@127.0.0.1/gnomon", InvalidRequest),
        ("postgresql://me:a@hunter2@127.0.0.1/gnomon", InvalidRequest),
        ("postgresql://me:hunter2@127.0.0.1:1/gnomon", NotReady),
    ],
)
def test_no_error_of_the_store_says_its_password(tmp_path: Path, url: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        PostgresStore(url, tmp_path)
    assert "hunter2" not in str(raised.value)
