"""The control client: what it sends, and that it hands on what it gets."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator

import grpc
import pytest
from client.fake_server import FakeServer

from gnomon_client import Control, FailedPrecondition
from gnomon_protos import control_pb2


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def control(server: FakeServer) -> Iterator[Control]:
    with Control(server.address, actor="ada@laptop") as opened:
        yield opened


def test_looking_hands_on_the_servers_messages(control: Control) -> None:
    assert [status.name for status in control.models().models] == ["every"]
    assert [status.name for status in control.models("churn").models] == ["churn"]
    assert control.report("churn", 2).shadow == 2
    assert control.divergent("churn", 2).requests[0].shadow == 2
    assert control.drift("churn", 3).waiting_rows == 3
    entry = control.audit("churn", 5).entries[0]
    assert (entry.id, entry.model) == (5, "churn")
    assert control.export_audit(7).entries[0].id == 8
    assert (control.manifest("churn", 2).name, control.manifest("churn", 2).version) == ("churn", 2)


def test_changes_carry_who_and_why(server: FakeServer, control: Control) -> None:
    assert control.shadow("churn", 2, 0.1, reason="try").after.shadows[0].sample == 0.1
    assert not control.shadow("churn", 2, off=True, reason="enough").after.shadows
    assert control.promote("churn", 2, force=True, reason="urgent").after.primary == 2
    assert control.rollback("churn", reason="worse").after.primary == 1
    applied = control.apply("churn", 7, 2, {3: 0.5}, reason="as the file says").after
    assert (applied.generation, applied.primary, applied.shadows[0].version, applied.shadows[0].sample) == (
        8,
        2,
        3,
        0.5,
    )
    requests = [seen.request for seen in server.recorder.seen]
    assert [request.actor for request in requests] == ["ada@laptop"] * 5
    assert [request.reason for request in requests] == ["try", "enough", "urgent", "worse", "as the file says"]
    assert (requests[1].off, requests[1].sample) == (True, 0.0)
    assert requests[2].force


def test_a_canary_begins_with_its_share_and_ends_without_a_name(server: FakeServer, control: Control) -> None:
    assert control.canary("churn", 2, 0.2, reason="try").after.canary == control_pb2.Canary(version=2, weight=0.2)
    assert not control.canary("churn", off=True).after.HasField("canary")
    control.apply("churn", 7, 1, {}, canary=(2, 0.5))
    begun, ended, applied = (seen.request for seen in server.recorder.seen)
    assert (begun.actor, begun.reason, begun.off) == ("ada@laptop", "try", False)
    assert (ended.version, ended.weight, ended.off) == (0, 0.0, True)
    assert applied.canary == control_pb2.Canary(version=2, weight=0.5)


def test_a_delivery_begins_with_its_version_and_goes_on_by_words(server: FakeServer, control: Control) -> None:
    assert control.deliver("churn", 2, reason="try").after.canary.version == 2
    control.deliver("churn", action="pause")
    begun, paused = (seen.request for seen in server.recorder.seen)
    assert (begun.version, begun.action, begun.actor, begun.reason) == (2, "", "ada@laptop", "try")
    assert (paused.version, paused.action) == (0, "pause")


def test_an_approval_is_handed_in_as_it_was_signed(server: FakeServer, control: Control) -> None:
    assert control.approve("churn", 2, "signed", reason="read it").version == 2
    request = server.recorder.seen[0].request
    assert (request.envelope, request.reason) == ("signed", "read it")


def test_the_number_of_frontends_is_changed_and_told(server: FakeServer, control: Control) -> None:
    assert control.scale(3).workers == 3
    assert server.recorder.seen[0].request.workers == 3


def test_labels_are_sent_as_text_one_or_several_a_request(server: FakeServer, control: Control) -> None:
    found = control.feedback("churn", [("a", "late"), ("b", [1, 2.5]), ("c", True, "2026-01-31T12:00:00Z")], shadow=2)
    assert found.shadows[0].joined == 3
    request = server.recorder.seen[0].request
    assert (request.model, request.shadow) == ("churn", 2)
    assert [(one.id, list(one.labels), one.time) for one in request.labels] == [
        ("a", ["late"], ""),
        ("b", ["1", "2.5"], ""),
        ("c", ["True"], "2026-01-31T12:00:00Z"),
    ]


def test_a_share_of_one_is_the_default(server: FakeServer, control: Control) -> None:
    control.shadow("churn", 2)
    assert server.recorder.seen[0].request.sample == 1.0


def test_a_refusal_is_typed(server: FakeServer, control: Control) -> None:
    server.recorder.script = iter([grpc.StatusCode.FAILED_PRECONDITION])
    with pytest.raises(FailedPrecondition, match="scripted FAILED_PRECONDITION"):
        control.promote("churn", 2)


def test_the_actor_is_this_user_on_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    with Control() as control:
        assert control.actor == f"{getpass.getuser()}@{socket.gethostname()}"
        assert control.actor.startswith("ada@")
