from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import signing_keys as keys

from gnomon_server.control.audit import approval
from gnomon_server.control.audit.approval import Approvals
from gnomon_server.control.audit.envelope import Subject
from gnomon_server.control.routes import Route
from gnomon_server.control.store import AuditEntry
from gnomon_server.control.store.sqlite import SqliteStore
from gnomon_server.errors import InvalidRequest, Refused

ROUTE = Route("m", 1, primary=1, shadows={2: 1.0})
WANTED = approval.subjects("m", 2, "sha256:22", 1, "sha256:11")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "state")
    store.change(ROUTE, AuditEntry("gnomon", "discover", 2))
    yield store
    store.close()


@pytest.fixture
def approvals(tmp_path: Path, store: SqliteStore) -> Approvals:
    return Approvals({name: str(keys.public(tmp_path / name)) for name in ("ann", "bob", "cy")}, store)


def by(folder: Path, wanted: tuple[Subject, ...] = WANTED, time: str = "now") -> str:
    return approval.signed(wanted, time, "read it", keys.signer(folder))


def test_enough_of_them_allow_a_promotion_and_fewer_do_not(tmp_path: Path, approvals: Approvals) -> None:
    with pytest.raises(Refused, match=r"model 'm' version '2': 0 of 2 approvals are given: .* \['ann', 'bob', 'cy'\]"):
        approvals.check("m", 2, WANTED, 2)
    first = approvals.take("m", 2, WANTED, by(tmp_path / "ann"), "read it")
    assert (first.entry.actor, first.entry.action, first.entry.reason) == ("ann", "approve", "read it")
    # Twice by one is still by one.
    approvals.take("m", 2, WANTED, by(tmp_path / "ann", time="later"), "")
    with pytest.raises(Refused, match=r"1 of 2 approvals are given \(ann\)"):
        approvals.check("m", 2, WANTED, 2)
    approvals.take("m", 2, WANTED, by(tmp_path / "cy"), "")
    assert len(approvals.check("m", 2, WANTED, 2)) == 2
    assert sorted(approvals.of("m", WANTED)) == ["ann", "cy"]


def test_one_who_may_not_approve_is_refused(tmp_path: Path, approvals: Approvals) -> None:
    with pytest.raises(Refused, match=r"expected a signature of one of \['ann', 'bob', 'cy'\]"):
        approvals.take("m", 2, WANTED, by(tmp_path / "eve"), "")


@pytest.mark.parametrize(
    "other",
    [
        approval.subjects("m", 3, "sha256:22", 1, "sha256:11"),
        approval.subjects("m", 2, "sha256:33", 1, "sha256:11"),
        approval.subjects("m", 2, "sha256:22", 1, "sha256:12"),
        approval.subjects("m", 2, "sha256:22", 0, ""),
    ],
    ids=["version", "bytes", "primary's bytes", "primary"],
)
def test_an_approval_is_of_exactly_these_bytes_in_the_place_of_those(
    tmp_path: Path, approvals: Approvals, other: tuple[Subject, ...]
) -> None:
    with pytest.raises(Refused, match="by other digests or in another's place"):
        approvals.take("m", 2, WANTED, by(tmp_path / "ann", other), "")


def test_an_approval_counts_for_one_promotion_and_cannot_be_handed_in_again(
    tmp_path: Path, store: SqliteStore, approvals: Approvals
) -> None:
    text = by(tmp_path / "ann")
    approvals.take("m", 2, WANTED, text, "")
    promoted = ROUTE.promoted(2)
    store.change(promoted, AuditEntry("ann", "promote", 2))
    store.change(promoted.rolled_back(), AuditEntry("ann", "rollback", 1))
    assert approvals.of("m", WANTED) == {}
    with pytest.raises(Refused, match="it was handed in before"):
        approvals.take("m", 2, WANTED, text.replace(",", ", ", 1), "")


def test_a_change_that_moves_no_primary_leaves_approvals_as_they_are(
    tmp_path: Path, store: SqliteStore, approvals: Approvals
) -> None:
    approvals.take("m", 2, WANTED, by(tmp_path / "ann"), "")
    store.change(replace(ROUTE, generation=2, shadows={2: 0.5}), AuditEntry("ann", "shadow", 2))
    assert sorted(approvals.of("m", WANTED)) == ["ann"]


def test_what_is_not_known_by_its_digest_cannot_be_approved() -> None:
    with pytest.raises(Refused, match="model 'm' version '2': its digest is not known before it is loaded"):
        approval.subjects("m", 2, "", 1, "sha256:11")


def test_two_approvers_have_two_keys(tmp_path: Path, store: SqliteStore) -> None:
    file = str(keys.public(tmp_path / "ann"))
    with pytest.raises(InvalidRequest, match="audit: approvers: 'bob' has the key of 'ann'"):
        Approvals({"ann": file, "bob": file}, store)
