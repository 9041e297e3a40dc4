from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import signing_keys as keys
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.control.audit import chain
from gnomon_server.control.audit.chain import Broken, Sealed, verify
from gnomon_server.control.audit.checkpoint import FILE as CHECKPOINT
from gnomon_server.control.audit.checkpoint import Checkpoint
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.audit.signing import PublicKey, Signer
from gnomon_server.control.routes import Route
from gnomon_server.control.store.sqlite import FILE, SqliteStore, entries_in
from gnomon_server.errors import InvalidRequest

SIGNER = Signer.made()
OTHER = Signer.made()
TRUSTED = keys.trusted(SIGNER)


def entries(count: int, signer: Signer = SIGNER) -> list[Sealed]:
    made: list[Sealed] = []
    for number in range(1, count + 1):
        entry = AuditEntry("ann", "shadow", number, "why not")
        record = AuditRecord(number, "2026-01-02T03:04:05Z", entry, Route("m", number - 1), Route("m", number))
        made.append(chain.sealed(record, made[-1].hash if made else chain.GENESIS, signer))
    return made


def of(entry: Sealed, signer: Signer = SIGNER) -> Checkpoint:
    return Checkpoint.signed(entry.id, entry.hash, "2026-01-02T03:04:05Z", signer)


def test_what_was_not_touched_is_whole() -> None:
    made = entries(5)
    assert verify(made, TRUSTED) == verify(made, TRUSTED, [of(made[-1]), of(made[2])]) == 5
    assert verify([], TRUSTED) == 0


def swapped(text: str) -> str:
    """Returns a text with another letter in its middle."""
    middle = len(text) // 2
    return text[:middle] + ("x" if text[middle] != "x" else "y") + text[middle + 1 :]


@given(number=st.integers(0, 4), field=st.sampled_from(["id", "model", "body", "hash", "key", "signature"]))
def test_whatever_is_altered_the_first_broken_entry_is_named(number: int, field: str) -> None:
    made = entries(5)
    before = getattr(made[number], field)
    change: dict[str, Any] = {field: before + 1 if field == "id" else swapped(before)}
    made[number] = replace(made[number], **change)
    with pytest.raises(Broken, match=f"entry {number + 1} "):
        verify(made, TRUSTED)


def test_an_entry_that_was_removed_is_missed() -> None:
    made = entries(5)
    with pytest.raises(Broken, match="entry 3 is missing: entry 4 stands in its place"):
        verify(made[:2] + made[3:], TRUSTED)


def test_a_chain_that_was_computed_anew_is_signed_by_nobody_who_is_trusted() -> None:
    made = entries(2) + entries(5, OTHER)[2:]
    with pytest.raises(Broken, match=r"entry 3 is signed by key .*, which is not among those that are trusted"):
        verify(made, TRUSTED)
    # Nor does it help to name the trusted key.
    claimed = [replace(entry, key=SIGNER.public.id) for entry in entries(5, OTHER)]
    with pytest.raises(Broken, match="entry 1 was forged"):
        verify(claimed, TRUSTED)


def test_genuine_entries_of_two_histories_do_not_fit_together() -> None:
    first = entries(3)
    record = replace(first[1].record, entry=AuditEntry("eve", "shadow", 2))
    second = chain.sealed(record, first[0].hash, SIGNER)
    with pytest.raises(Broken, match="entry 3 does not follow entry 2"):
        verify([first[0], second, first[2]], TRUSTED)


def test_a_tail_that_was_cut_off_is_found_by_a_checkpoint_alone() -> None:
    made = entries(5)
    assert verify(made[:3], TRUSTED) == 3
    with pytest.raises(Broken, match=r"entry 4 is missing: the checkpoint of .* knows 5"):
        verify(made[:3], TRUSTED, [of(made[4])])


def test_a_checkpoint_binds_the_hash_too() -> None:
    made = entries(5)
    genuine = Checkpoint.signed(4, "0" * 64, "2026-01-02T03:04:05Z", SIGNER)
    with pytest.raises(Broken, match="entry 4 is not the one that the checkpoint"):
        verify(made, TRUSTED, [genuine, of(made[1])])


def test_a_checkpoint_that_nobody_trusted_signed_is_no_word() -> None:
    made = entries(5)
    for checkpoint in (of(made[4], OTHER), replace(of(made[4]), entries=3), replace(of(made[4]), time="later")):
        with pytest.raises(Broken, match="is not signed by a key that is trusted"):
            verify(made, TRUSTED, [checkpoint])


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path)


def grow(store: SqliteStore, generations: int) -> None:
    route = store.routes().get("m", Route("m"))
    for _ in range(generations):
        route = replace(route, generation=route.generation + 1)
        store.change(route, AuditEntry("ann", "shadow", route.generation))


def tamper(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / FILE)) as connection, connection:
        for name in ("altered", "removed", "replaced"):
            connection.execute(f"DROP TRIGGER IF EXISTS audit_is_not_{name}")
        for statement in statements:
            connection.execute(statement)


def checked(folder: Path, store: SqliteStore) -> int:
    checkpoint = store.checkpoint()
    assert checkpoint is not None
    return verify(entries_in(folder), keys.trusted(store.signer), [checkpoint])


def test_the_store_keeps_a_chain_that_verifies_beside_it_and_after_a_restart(
    tmp_path: Path, store: SqliteStore
) -> None:
    grow(store, 3)
    assert checked(tmp_path, store) == 3
    store.close()
    again = SqliteStore(tmp_path)
    grow(again, 2)
    assert checked(tmp_path, again) == 5
    again.close()


def test_entries_cut_off_behind_the_servers_back_are_found_at_once_and_for_ever(
    tmp_path: Path, store: SqliteStore
) -> None:
    grow(store, 5)
    tamper(tmp_path, "DELETE FROM audit WHERE id > 3")
    with pytest.raises(Broken, match="entry 4 is missing"):
        checked(tmp_path, store)
    # What is written afterwards does not cover it.
    grow(store, 4)
    with pytest.raises(Broken, match=r"entry 4 says that entry 5, which this server wrote at .*, was altered or"):
        checked(tmp_path, store)
    assert [record.entry.action for record in store.audit()].count("damaged") == 1
    store.close()


def test_entries_cut_off_while_the_server_was_away_are_found_when_it_is_back(
    tmp_path: Path, store: SqliteStore
) -> None:
    grow(store, 5)
    store.close()
    tamper(tmp_path, "DELETE FROM audit WHERE id = 5")
    again = SqliteStore(tmp_path)
    grow(again, 1)
    with pytest.raises(Broken, match="entry 5 says that entry 5, "):
        checked(tmp_path, again)
    again.close()


def test_a_route_that_was_altered_beside_the_audit_is_noticed_by_the_next_change(
    tmp_path: Path, store: SqliteStore
) -> None:
    grow(store, 2)
    tamper(tmp_path, "UPDATE routes SET route = replace(route, '\"primary\":0', '\"primary\":6')")
    grow(store, 1)
    with pytest.raises(Broken, match="entry 3 says that the route of model 'm' was altered beside the audit"):
        checked(tmp_path, store)
    store.close()


def test_an_altered_row_is_named(tmp_path: Path, store: SqliteStore) -> None:
    grow(store, 3)
    tamper(tmp_path, "UPDATE audit SET body = replace(body, 'ann', 'eve') WHERE id = 2")
    with pytest.raises(Broken, match="entry 2 was altered"):
        checked(tmp_path, store)
    store.close()


def test_the_private_key_is_for_its_owner_alone_and_is_kept(tmp_path: Path) -> None:
    one = keys.signer(tmp_path)
    assert keys.private(tmp_path).stat().st_mode & 0o777 == 0o600
    assert keys.signer(tmp_path).public.id == one.public.id == PublicKey.read(keys.public(tmp_path)).id


def test_a_key_of_another_place_signs(tmp_path: Path) -> None:
    elsewhere = keys.private(tmp_path / "elsewhere")
    store = SqliteStore(tmp_path / "state", elsewhere)
    grow(store, 1)
    assert verify(entries_in(tmp_path / "state"), keys.trusted(Signer.read(elsewhere))) == 1
    assert not (tmp_path / "state" / "signing.pem").exists()
    store.close()


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"key\.pem: expected an ed25519 private key in PEM"):
        SqliteStore(tmp_path / "state", file)
    with pytest.raises(InvalidRequest, match=r"key\.pem: expected an ed25519 public key in PEM"):
        PublicKey.read(file)


def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, store: SqliteStore) -> None:
    store.close()
    (tmp_path / CHECKPOINT).write_text("{}")
    with pytest.raises(InvalidRequest, match=r"audit\.checkpoint: expected a checkpoint of the audit"):
        SqliteStore(tmp_path)
