"""Promotion: on evidence only, and without a request that fails or finds two versions mixed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_models as models
import pytest
from load import Load
from servers import ServerProcess, eventually
from tallying import adds_up, at_rest, mirrored

from gnomon_client import Control, FailedPrecondition, InvalidArgument, NotFound
from gnomon_protos import control_pb2 as pb

CONFIG = """
grace = 1.0
[policy]
tolerance = 0.05
min_requests = 100
min_duration = 0
block = 1
dedupe = false
[mirror]
deadline = 60.0
"""
ROW = np.ones((1, 3), np.float32)
# Version to what it multiplies by: 2 and 3 agree with 1, 4 does not, 5 cannot be loaded.
SCALES = {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    repository = tmp_path / "models"
    for version, scale in SCALES.items():
        models.write(repository, "m", version, models.affine(scale))
    with ServerProcess(repository, tmp_path / "state", config=CONFIG) as running:
        yield running


@pytest.fixture
def control(server: ServerProcess) -> Iterator[Control]:
    with server.control() as running:
        yield running


def route(control: Control) -> pb.Route:
    found = pb.Route()
    found.CopyFrom(control.models("m").models[0].route)
    return found


def assert_each_answer_is_of_one_version(load: Load) -> None:
    assert load.failures == []
    for answer in load.answers:
        np.testing.assert_array_equal(answer.y, answer.x * np.float32(SCALES[answer.version]))


def test_fifty_switches_under_load_lose_no_request_and_mix_no_versions(server: ServerProcess, control: Control) -> None:
    mirrored(control, "m", 4)
    with Load(server.grpc, "m", pace=0.001) as load:
        for _ in range(25):
            load.reach(4)
            assert control.promote("m", 4, force=True, reason="to and fro").after.primary == 4
            load.reach(4)
            assert control.rollback("m", reason="to and fro").after.primary == 1
    assert_each_answer_is_of_one_version(load)
    assert {answer.version for answer in load.answers} == {1, 4}
    changes = control.audit("m", 1000).entries
    assert sum(entry.action == "promote" and entry.forced for entry in changes) == 25
    assert sum(entry.action == "rollback" for entry in changes) == 25
    # Each change begins where the one before it ended.
    assert all(newer.before == older.after for newer, older in pairwise(changes))
    for shadow in (2, 3, 4):
        eventually(lambda shadow=shadow: control.report("m", shadow).outcomes.pending == 0)  # type: ignore[misc]
        assert adds_up(control.report("m", shadow).outcomes)


def test_a_version_answers_from_the_moment_its_promotion_returns(server: ServerProcess, control: Control) -> None:
    with server.client() as client:
        for _ in range(10):
            control.promote("m", 4, force=True, reason="now")
            assert client.infer("m", ROW).version == "4"
            control.rollback("m")
            assert client.infer("m", ROW).version == "1"


def test_without_a_favourable_verdict_a_promotion_is_refused_with_the_verdict(
    server: ServerProcess, control: Control
) -> None:
    expected = r"model 'm' version '2': the verdict is 'keep watching', no request is observed"
    with pytest.raises(FailedPrecondition, match=expected):
        control.promote("m", 2)
    mirrored(control, "m", 4)
    before, audit = route(control), control.audit()
    with Load(server.grpc, "m", lambda n: np.full((1, 3), 1 + n % 5, np.float32)) as load:
        load.reach(150)
    at_rest(control, "m", load.ended, shadow=4)
    with pytest.raises(FailedPrecondition, match=r"model 'm' version '4': the verdict is 'reject', .* requests are ob"):
        control.promote("m", 4)
    assert route(control) == before
    assert control.audit() == audit
    with server.client() as client:
        assert client.infer("m", ROW).version == "1"


def test_a_favourable_verdict_allows_it_and_stays_in_the_audit_as_evidence(
    server: ServerProcess, control: Control
) -> None:
    mirrored(control, "m", 2)
    with Load(server.grpc, "m") as load:
        load.reach(150)
        eventually(lambda: control.report("m", 2).verdict.decision == "promote")
        change = control.promote("m", 2, reason="proven")
        load.reach(20)
    assert_each_answer_is_of_one_version(load)
    assert (change.after.primary, change.after.previous) == (2, 1)
    assert change.evidence.verdict.decision == "promote"
    assert change.evidence.outcomes.compared >= 100
    newest = control.audit("m", 1).entries[0]
    assert (newest.action, newest.version, newest.forced, newest.reason) == ("promote", 2, False, "proven")
    assert newest.evidence == change.evidence
    assert (newest.before, newest.after) == (change.before, change.after)


def test_force_needs_a_reason_and_is_said_for_ever(control: Control) -> None:
    with pytest.raises(InvalidArgument, match="force needs a reason"):
        control.promote("m", 4, force=True)
    control.promote("m", 4, force=True, reason="I know better")
    newest = control.audit("m", 1).entries[0]
    assert (newest.forced, newest.reason, newest.actor) == (True, "I know better", control.actor)
    assert newest.evidence.verdict.decision == "keep watching"


@pytest.mark.parametrize("content", [b"no model at all", b""], ids=["damaged", "empty"])
def test_a_version_that_cannot_load_is_refused_and_nothing_changes(
    content: bytes, server: ServerProcess, control: Control, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "m" / "5"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(content)
    eventually(lambda: "failed" in [v.state for v in control.models("m").models[0].versions])
    before, audit = route(control), control.audit()
    with Load(server.grpc, "m") as load:
        with pytest.raises(FailedPrecondition, match="model 'm' version '5' cannot be served: "):
            control.promote("m", 5, force=True, reason="let us see")
        load.reach(20)
    assert_each_answer_is_of_one_version(load)
    assert route(control) == before
    assert control.audit() == audit
    control.promote("m", 2, force=True, reason="the others still can")


def test_a_shadow_that_is_off_counts_nothing_and_goes_on_where_it_was(server: ServerProcess, control: Control) -> None:
    mirrored(control, "m", 2)
    with Load(server.grpc, "m", name="first") as load:
        load.reach(50)
    first = at_rest(control, "m", load.ended, shadow=2)
    assert sorted(s.version for s in control.shadow("m", 2, off=True).after.shadows) == [3, 4]
    with Load(server.grpc, "m", name="off") as unseen:
        unseen.reach(50)
    assert control.report("m", 2).outcomes == first
    with pytest.raises(NotFound, match=r"version '2' is not a shadow: expected one of \[3, 4\]"):
        control.shadow("m", 2, off=True)
    control.shadow("m", 2)
    mirrored(control, "m", 2)
    with Load(server.grpc, "m", name="again") as again:
        again.reach(50)
    assert at_rest(control, "m", load.ended + again.ended, shadow=2).compared == load.ended + again.ended


def test_a_shadow_is_turned_off_under_load_without_losing_what_was_handed_over(
    server: ServerProcess, control: Control
) -> None:
    mirrored(control, "m", 2)
    with Load(server.grpc, "m", pace=0.001) as load:
        load.reach(200)
        control.shadow("m", 2, off=True)
        load.reach(20)
    assert load.failures == []
    # What is still on its way comes as well, and then nothing more.
    eventually(lambda: control.report("m", 2).outcomes.compared >= 200)
    eventually(lambda: control.report("m", 2).outcomes.pending == 0)
    found = control.report("m", 2).outcomes
    assert found.compared == found.selected <= load.ended


@pytest.mark.parametrize(
    ("version", "error", "text"),
    [
        (1, FailedPrecondition, "is the primary already"),
        (9, NotFound, r"version '9' not found: expected one of \[1, 2, 3, 4\]"),
        (0, NotFound, "version '0' not found"),
    ],
)
def test_what_cannot_be_promoted_is_refused_by_name(
    version: int, error: type[Exception], text: str, control: Control
) -> None:
    with pytest.raises(error, match=text):
        control.promote("m", version, force=True, reason="why not")


def test_a_rollback_needs_a_previous_version_and_goes_back_only_once(control: Control) -> None:
    with pytest.raises(FailedPrecondition, match="no previous version to roll back to"):
        control.rollback("m")
    control.promote("m", 2, force=True, reason="on")
    after = control.rollback("m").after
    assert (after.primary, after.previous) == (1, 0)
    # It is a shadow again, from which it may return.
    assert 2 in [shadow.version for shadow in after.shadows]
    with pytest.raises(FailedPrecondition, match="no previous version"):
        control.rollback("m")
