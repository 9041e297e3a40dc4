"""The audit and the evidence as somebody checks them who trusts neither the server nor its database."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import onnx_models as models
import pytest
import signing_keys as keys
from load import Load
from servers import ServerProcess, eventually
from tallying import mirrored

from gnomon_client import Control, FailedPrecondition

GNOMON = str(Path(sys.executable).with_name("gnomon"))


def gnomon(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GNOMON, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proofs")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    for version in (1, 2):
        models.write(folder / "models", "m", version, models.affine(1.0))
    approvers = "\n".join(f'{name} = "{keys.public(folder / name)}"' for name in ("ann", "bob"))
    policy = "tolerance = 0.05\nmin_requests = 100\nmin_duration = 0\nblock = 1\ndedupe = false\n"
    text = f"grace = 1.0\n[policy]\n{policy}approvals = 2\n[audit.approvers]\n{approvers}\n"
    with ServerProcess(folder / "models", folder / "state", config=text) as running:
        yield running


@pytest.fixture(scope="module")
def promoted(folder: Path, server: ServerProcess) -> Iterator[Control]:
    """A server that promoted version 2 once two had approved."""
    with server.control() as control:
        mirrored(control, "m", 2)
        with Load(server.grpc, "m") as load:
            load.reach(150)
            eventually(lambda: control.report("m", 2).verdict.decision == "promote")
            with pytest.raises(FailedPrecondition, match="0 of 2 approvals are given"):
                control.promote("m", 2)
            # Not even by force: that is about the verdict.
            with pytest.raises(FailedPrecondition, match="0 of 2 approvals are given"):
                control.promote("m", 2, force=True, reason="in a hurry")
            for name in ("ann", "bob"):
                done = gnomon(
                    *("approve", "m", 2, "--key", keys.private(folder / name), "--reason", "read the report"),
                    *("--control", server.control_address),
                )
                assert done.stdout.startswith(f"{name} approves m/2 ("), done
            control.promote("m", 2, reason="proven")
        yield control


def test_a_promotions_evidence_is_checked_by_the_public_key_alone(
    folder: Path, server: ServerProcess, promoted: Control
) -> None:
    entry = promoted.audit("m", 1).entries[0]
    assert (entry.action, entry.evidence.verdict.decision) == ("promote", "promote")
    exported = gnomon("audit", "--evidence", entry.id, "--control", server.control_address)
    file = folder / "promotion.json"
    file.write_text(exported.stdout)
    genuine = gnomon("audit", "--check", file, "--key", folder / "state" / "signing.pub.pem", "--json")
    assert genuine.returncode == 0, genuine
    said = json.loads(genuine.stdout)
    digests = {version.version: version.digest for version in promoted.models("m").models[0].versions}
    assert [subject["digest"]["sha256"] for subject in said["subject"]] == [
        digests[version].removeprefix("sha256:") for version in (2, 1)
    ]
    assert len(said["predicate"]["approvals"]) == 2
    forged = gnomon("audit", "--check", file, "--key", keys.public(folder / "eve"))
    assert (forged.returncode, forged.stderr) == (1, "")
    assert "expected a key that is trusted" in forged.stdout


def test_the_audit_is_whole_by_the_servers_word_by_a_named_key_and_in_its_file(
    folder: Path, server: ServerProcess, promoted: Control
) -> None:
    count = promoted.audit().entries[0].id
    key = ("--key", folder / "state" / "signing.pub.pem")
    kept = folder / "checkpoint.json"
    kept.write_text(gnomon("audit", "--checkpoint", "--control", server.control_address).stdout)
    for arguments in (
        ("--control", server.control_address),
        ("--control", server.control_address, *key, "--against", kept),
        ("--state", folder / "state"),
        ("--state", folder / "state", *key, "--against", kept),
    ):
        done = gnomon("audit", "--verify", *arguments)
        assert (done.returncode, done.stdout[: len(f"{count} entries")]) == (0, f"{count} entries"), done
    untrusted = gnomon("audit", "--verify", "--state", folder / "state", "--key", keys.public(folder / "eve"))
    assert (untrusted.returncode, untrusted.stderr) == (1, "")


def test_a_database_that_was_cut_short_is_named_even_where_its_checkpoint_went_with_it(
    folder: Path, server: ServerProcess, promoted: Control, tmp_path: Path
) -> None:
    kept = tmp_path / "checkpoint.json"
    kept.write_text(gnomon("audit", "--checkpoint", "--control", server.control_address).stdout)
    count = promoted.audit().entries[0].id
    state = tmp_path / "copy"
    state.mkdir()
    with (
        closing(sqlite3.connect(folder / "state" / "gnomon.sqlite")) as original,
        closing(sqlite3.connect(state / "gnomon.sqlite")) as copy,
    ):
        original.backup(copy)
        copy.execute("DROP TRIGGER audit_is_not_removed")
        copy.execute("DELETE FROM audit WHERE id = ?", (count,))
        copy.commit()
    key = ("--key", folder / "state" / "signing.pub.pem")
    unproven = gnomon("audit", "--verify", "--state", state, *key)
    assert (unproven.returncode, "no checkpoint: its end is unproven" in unproven.stdout) == (0, True)
    found = gnomon("audit", "--verify", "--state", state, *key, "--against", kept)
    assert found.returncode == 1
    assert f"the audit is broken: entry {count} is missing" in found.stdout


def test_a_report_is_one_file_that_loads_nothing(server: ServerProcess, promoted: Control, tmp_path: Path) -> None:
    promoted.rollback("m", reason="for the report")
    file = tmp_path / "report.html"
    done = gnomon("report", "m", "--html", file, "--control", server.control_address)
    assert done.returncode == 0, done
    text = file.read_text()
    assert "default-src 'none'" in text
    for part in ("version 2 in the shadow of version 1", "Version 2", "sha256:", "for the report", "approve"):
        assert part in text
    assert "<script" not in text
    assert "src=" not in text


def test_what_a_promotion_rests_on_can_be_reported_when_there_is_no_such_shadow_any_more(
    server: ServerProcess, promoted: Control, tmp_path: Path
) -> None:
    (entry,) = [entry for entry in promoted.audit("m").entries if entry.action == "promote"][:1]
    assert entry.HasField("evidence")
    address = ("--control", server.control_address)
    for words in (("--promotion",), ("--promotion", entry.id)):
        shown = gnomon("report", "m", *words, *address)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "m: version 2 in the shadow of version 1" in shown.stdout
        assert "verdict: promote" in shown.stdout
    file = tmp_path / "promotion.html"
    done = gnomon("report", "m", "--promotion", "--html", file, *address)
    assert done.returncode == 0, done
    assert "version 2 in the shadow of version 1" in file.read_text()
    for more, text in (
        (("--promotion", "1"), "no report is kept of entry 1 of the audit"),
        (("--promotion", "--watch"), "expected either --watch or --promotion"),
    ):
        refused = gnomon("report", "m", *more, *address)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused
        assert text in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--evidence", 1), "entry 1 of the audit ('discover') has no evidence"),
        (("--evidence", 999), "the audit has no entry 999"),
        (("--verify", "--key", "/nowhere"), "/nowhere: cannot be read"),
        (("--verify", "--against", "/nowhere"), "/nowhere: cannot be read"),
        (("--check", "/nowhere"), "needs --key"),
    ],
)
def test_what_cannot_be_proved_is_said_in_one_line(
    server: ServerProcess, promoted: Control, arguments: tuple[object, ...], text: str
) -> None:
    done = gnomon("audit", *arguments, "--control", server.control_address)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
    assert text in done.stderr
