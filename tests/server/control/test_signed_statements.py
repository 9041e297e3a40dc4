from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_protos import control_pb2
from gnomon_server.control.audit import envelope
from gnomon_server.control.audit.envelope import Unsigned
from gnomon_server.control.audit.promotion import Promotion, report_of
from gnomon_server.control.audit.signing import Signer
from gnomon_server.errors import InvalidRequest
from gnomon_server.settings import Policy

SIGNER = Signer.made()
OTHER = Signer.made()
REPORT = control_pb2.Report(
    model="m",
    primary=1,
    shadow=2,
    since="2026-01-01T00:00:00Z",
    outcomes=control_pb2.Outcomes(selected=7, compared=7),
    agreement=control_pb2.Interval(estimate=1.0, low=0.97, high=1.0),
    verdict=control_pb2.Verdict(decision="promote"),
)


def promotion(report: control_pb2.Report | None = REPORT) -> str:
    return Promotion(
        model="m",
        version=2,
        digest="sha256:22",
        primary=1,
        primary_digest="sha256:11",
        actor="ann",
        reason="proven",
        forced=report is None,
        policy=Policy(min_requests=5),
        report=report,
        time="2026-01-02T00:00:00Z",
    ).signed(SIGNER)


def test_a_promotion_names_both_digests_the_policy_the_window_the_counts_and_the_bounds() -> None:
    statement = envelope.verified(promotion(), [SIGNER.public], "here")
    assert [(s.name, s.digest) for s in statement.subject] == [("m/2", {"sha256": "22"}), ("m/1", {"sha256": "11"})]
    said = statement.predicate
    assert (said["promoted"], said["replaces"], said["actor"], said["forced"]) == (2, 1, "ann", False)
    assert said["window"] == {"since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z"}
    assert said["policy"]["min_requests"] == 5
    assert len(said["policyDigest"]["sha256"]) == 64
    assert said["report"]["outcomes"]["compared"] == "7"
    assert said["report"]["agreement"]["low"] == 0.97


def test_the_report_comes_back_out_of_the_evidence() -> None:
    assert report_of(promotion()) == REPORT
    assert report_of(promotion(None)) is None
    assert report_of("") is None
    # As it was kept before evidence was signed.
    assert report_of('{"model": "m", "shadow": "2"}') == control_pb2.Report(model="m", shadow=2)


def test_the_signature_is_what_the_dsse_specification_says() -> None:
    made = json.loads(promotion())
    payload = base64.b64decode(made["payload"])
    assert made["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(payload)["_type"] == "https://in-toto.io/Statement/v1"
    signed = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    (signature,) = made["signatures"]
    assert signature["keyid"] == SIGNER.public.id
    assert SIGNER.public.signed(signed, signature["sig"])


@given(place=st.integers(0, 2000))
def test_a_payload_that_was_altered_is_not_genuine(place: int) -> None:
    made = json.loads(promotion())
    payload = bytearray(base64.b64decode(made["payload"]))
    payload[place % len(payload)] ^= 1
    made["payload"] = base64.b64encode(payload).decode()
    with pytest.raises((Unsigned, InvalidRequest)):
        envelope.verified(json.dumps(made), [SIGNER.public], "here")


def test_who_signed_is_told_by_the_key_and_not_by_its_name() -> None:
    made = json.loads(promotion())
    made["signatures"][0]["keyid"] = OTHER.public.id
    assert envelope.signers(json.dumps(made), [OTHER.public, SIGNER.public], "here") == {SIGNER.public.id}
    with pytest.raises(Unsigned, match=f"here: signed by {OTHER.public.id[:16]}, expected a key that is trusted"):
        envelope.verified(json.dumps(made), [OTHER.public], "here")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"payload": "no base64!"}, "here: the payload is no statement"),
        ({"payload": base64.b64encode(b"[]").decode()}, "here: the payload is no statement"),
        ({"payloadType": "text/plain"}, "here: expected a payload of application/vnd.in-toto"),
        ({"signatures": 3}, "here: expected a DSSE envelope"),
    ],
)
def test_what_is_no_statement_is_refused_by_what_is_wrong(change: Mapping[str, object], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        envelope.verified(json.dumps(json.loads(promotion()) | change), [SIGNER.public], "here")
