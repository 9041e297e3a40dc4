"""The chain: entries that each name the hash of the one before, signed, and how they are verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gnomon_server.control.audit.checkpoint import Checkpoint
from gnomon_server.control.audit.records import AuditRecord
from gnomon_server.control.audit.signing import PublicKey, Signer
from gnomon_server.errors import Refused

# What the first entry names as the hash before it.
GENESIS: Final = "0" * 64
# The action of an entry by which the server itself says that entries before it were altered or removed.
DAMAGED: Final = "damaged"
# Keeps a signature of a hash from being one of anything else.
_SIGNED: Final = b"gnomon audit entry\n"


@dataclass(frozen=True)
class Sealed:
    """An entry as it is kept."""

    id: int
    model: str
    # JSON: the record, and the hash of the entry before. What is hashed are these very bytes, so that nothing depends
    # on how a later release writes JSON.
    body: str
    # SHA-256 of the body, in hexadecimal.
    hash: str
    # The id of the key that signed the hash.
    key: str
    signature: str

    @property
    def record(self) -> AuditRecord:
        """What the entry says; raises Refused if it cannot be read."""
        return _body(self).record


class Broken(Refused):
    """The first entry that is not as it was written, or a checkpoint that nobody signed."""


@dataclass(frozen=True)
class _Body:
    previous: str
    record: AuditRecord


def sealed(record: AuditRecord, previous: str, signer: Signer) -> Sealed:
    """Returns a record as the entry that follows the one with hash `previous`."""
    body = msgspec.json.encode(_Body(previous, record)).decode()
    digest = _digest(body)
    signature = signer.sign(_SIGNED + digest.encode())
    return Sealed(record.id, record.after.model, body, digest, signer.public.id, signature)


def verify(entries: Iterable[Sealed], keys: Mapping[str, PublicKey], checkpoints: Iterable[Checkpoint] = ()) -> int:
    """Returns how many entries there are, oldest first; raises Broken for the first that is not as it was written.

    What a checkpoint names must be there, with the same hash.
    """
    named = sorted(checkpoints, key=lambda checkpoint: checkpoint.entries)
    for checkpoint in named:
        if checkpoint.key not in keys or not checkpoint.genuine(keys[checkpoint.key]):
            raise Broken(f"the checkpoint of {checkpoint.time} is not signed by a key that is trusted")
    number, previous = 0, GENESIS
    for entry in entries:
        number += 1
        _check(entry, number, previous, keys)
        while named and named[0].entries == number:
            if named[0].hash != entry.hash:
                raise Broken(f"entry {number} is not the one that the checkpoint of {named[0].time} names")
            named.pop(0)
        previous = entry.hash
    if named:
        raise Broken(f"entry {number + 1} is missing: the checkpoint of {named[-1].time} knows {named[-1].entries}")
    return number


def _check(entry: Sealed, number: int, previous: str, keys: Mapping[str, PublicKey]) -> None:
    if entry.id != number:
        raise Broken(f"entry {number} is missing: entry {entry.id} stands in its place")
    if _digest(entry.body) != entry.hash:
        raise Broken(f"entry {number} was altered: its body does not have its hash")
    key = keys.get(entry.key)
    if key is None:
        raise Broken(f"entry {number} is signed by key {entry.key[:16]}, which is not among those that are trusted")
    if not key.signed(_SIGNED + entry.hash.encode(), entry.signature):
        raise Broken(f"entry {number} was forged: its signature is not by key {entry.key[:16]}")
    body = _body(entry)
    if body.previous != previous:
        raise Broken(f"entry {number} does not follow entry {number - 1}: an entry before it was altered or removed")
    if (body.record.id, body.record.after.model) != (entry.id, entry.model):
        raise Broken(f"entry {number} was altered: number or model differ from its body")
    if body.record.entry.action == DAMAGED:
        raise Broken(f"entry {number} says that {body.record.entry.reason}")


def _body(entry: Sealed) -> _Body:
    try:
        return msgspec.json.decode(entry.body, type=_Body)
    except msgspec.DecodeError as error:
        raise Refused(f"entry {entry.id} of the audit cannot be read: {error}") from None


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
