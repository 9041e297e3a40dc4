"""Signed statements: in-toto statements in DSSE envelopes, so that tools of others read and verify them too.

Formats: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://github.com/secure-systems-lab/dsse/blob/master/envelope.md.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from gnomon_server.control.audit.signing import PublicKey, Signer
from gnomon_server.errors import InvalidRequest, Refused

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"


class Unsigned(Refused):
    """No key that is trusted signed it."""


class Subject(msgspec.Struct, frozen=True):
    """What a statement is about."""

    # "MODEL/VERSION"
    name: str
    # By algorithm, in hexadecimal.
    digest: dict[str, str]


class Statement(msgspec.Struct, frozen=True):
    """An in-toto statement."""

    type: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: dict[str, Any]


class Signature(msgspec.Struct, frozen=True):
    """One signature of an envelope, in base64."""

    sig: str
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True):
    """A DSSE envelope; the payload is in base64."""

    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[Signature, ...]


def version_subject(model: str, version: int, digest: str) -> Subject:
    """Returns a model's version as a subject; `digest` is "sha256:..." or empty where it is not known."""
    algorithm, _, value = digest.partition(":")
    return Subject(f"{model}/{version}", {algorithm: value} if value else {})


def signed(subjects: Sequence[Subject], predicate_type: str, predicate: Mapping[str, Any], signer: Signer) -> str:
    """Returns a statement in its envelope, as JSON."""
    statement = Statement(STATEMENT_TYPE, tuple(subjects), predicate_type, dict(predicate))
    payload = msgspec.json.encode(statement)
    signature = Signature(signer.sign(_authenticated(payload)), signer.public.id)
    return msgspec.json.encode(Envelope(base64.b64encode(payload).decode(), PAYLOAD_TYPE, (signature,))).decode()


def opened(text: str | bytes, where: str) -> Statement:
    """Returns the statement in an envelope, whoever signed it; raises InvalidRequest if it is none."""
    return _statement(_envelope(text, where), where)


def verified(text: str | bytes, keys: Iterable[PublicKey], where: str) -> Statement:
    """Returns the statement in an envelope.

    Raises Unsigned unless one of the keys signed it; InvalidRequest if it is none.
    """
    statement = opened(text, where)
    if not signers(text, keys, where):
        names = ", ".join(signature.keyid[:16] or "no name" for signature in _envelope(text, where).signatures)
        raise Unsigned(f"{where}: signed by {names or 'nobody'}, expected a key that is trusted")
    return statement


def signers(text: str | bytes, keys: Iterable[PublicKey], where: str) -> frozenset[str]:
    """Returns the ids of those keys that signed an envelope."""
    envelope = _envelope(text, where)
    try:
        data = _authenticated(base64.b64decode(envelope.payload, validate=True))
    except ValueError:
        raise InvalidRequest(f"{where}: the payload is not in base64") from None
    # The id of a key in an envelope is a hint that nobody signed: every key is tried.
    return frozenset(
        key.id for key in keys if any(key.signed(data, signature.sig) for signature in envelope.signatures)
    )


def _envelope(text: str | bytes, where: str) -> Envelope:
    try:
        return msgspec.json.decode(text, type=Envelope)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{where}: expected a DSSE envelope: {error}") from None


def _statement(envelope: Envelope, where: str) -> Statement:
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InvalidRequest(f"{where}: expected a payload of {PAYLOAD_TYPE}, received {envelope.payload_type[:64]!r}")
    try:
        statement = msgspec.json.decode(base64.b64decode(envelope.payload, validate=True), type=Statement)
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"{where}: the payload is no statement: {error}") from None
    if statement.type != STATEMENT_TYPE:
        raise InvalidRequest(f"{where}: expected a statement of {STATEMENT_TYPE}, received {statement.type[:64]!r}")
    return statement


def _authenticated(payload: bytes) -> bytes:
    """Returns what is signed: the payload and its type, so that none passes for the other (DSSE's PAE)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
