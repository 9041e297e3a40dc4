"""Approvals: the consent of n of those who may give it, each signed with a key of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from gnomon_server.control.audit import envelope
from gnomon_server.control.audit.envelope import Subject
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.audit.signing import PublicKey, Signer
from gnomon_server.control.store import Store
from gnomon_server.errors import InvalidRequest, Refused

PREDICATE: Final = "urn:gnomon:approval:v1"
ACTION: Final = "approve"
# Records of a model among which its approvals are looked for.
LOOK_BACK: Final = 1000


def subjects(model: str, version: int, digest: str, primary: int, primary_digest: str) -> tuple[Subject, ...]:
    """Returns what is approved: a version in the place of another, 0 being none, both by their digests.

    Raises Refused where a digest is not known yet.
    """
    wanted = [(version, digest)] + ([(primary, primary_digest)] if primary else [])
    for number, known in wanted:
        if not known:
            raise Refused(f"model '{model}' version '{number}': its digest is not known before it is loaded")
    return tuple(envelope.version_subject(model, number, known) for number, known in wanted)


def signed(wanted: Sequence[Subject], time: str, reason: str, signer: Signer) -> str:
    """Returns an approval in its envelope, as JSON; the time keeps one approval from being another."""
    return envelope.signed(wanted, PREDICATE, {"time": time, "reason": reason}, signer)


class Approvals:
    """What was approved, kept in the audit."""

    def __init__(self, approvers: Mapping[str, str], store: Store) -> None:
        """Reads the public keys of those who may approve; raises InvalidRequest if a file holds none."""
        self._store = store
        self._names: dict[str, str] = {}
        self._keys: list[PublicKey] = []
        for name, file in approvers.items():
            key = PublicKey.read(Path(file))
            if key.id in self._names:
                raise InvalidRequest(f"audit: approvers: '{name}' has the key of '{self._names[key.id]}'")
            self._names[key.id] = name
            self._keys.append(key)

    def take(self, model: str, version: int, wanted: tuple[Subject, ...], text: str, reason: str) -> AuditRecord:
        """Keeps an approval; raises Refused unless it is new, of what is wanted, and of one who may approve."""
        where = f"approval of model '{model}' version '{version}'"
        names = self._approvers(text, wanted, where)
        records = self._store.audit(model, LOOK_BACK)
        if any(self._same(record.entry.evidence, text) for record in records if record.entry.action == ACTION):
            raise Refused(f"{where}: it was handed in before")
        return self._store.note(model, AuditEntry(", ".join(names), ACTION, version, reason, evidence=text))

    def of(self, model: str, wanted: tuple[Subject, ...]) -> Mapping[str, str]:
        """Returns the approvals since the primary last changed: who gave each, and its envelope."""
        found: dict[str, str] = {}
        for record in self._store.audit(model, LOOK_BACK):
            if record.before.primary != record.after.primary:
                break
            if record.entry.action == ACTION:
                try:
                    names = self._approvers(record.entry.evidence, wanted, "approval")
                except Refused:
                    # Of another version, or of one who may approve no more.
                    continue
                found |= dict.fromkeys(names, record.entry.evidence)
        return found

    def check(self, model: str, version: int, wanted: tuple[Subject, ...], needed: int) -> Sequence[str]:
        """Returns the envelopes of the approvals; raises Refused if fewer approved than needed."""
        given = self.of(model, wanted)
        if len(given) < needed:
            who = f" ({', '.join(sorted(given))})" if given else ""
            raise Refused(
                f"model '{model}' version '{version}': {len(given)} of {needed} approvals are given{who}: "
                f"expected 'gnomon approve' by more of {sorted(self._names.values())}"
            )
        return tuple(dict.fromkeys(given.values()))

    def _same(self, one: str, other: str) -> bool:
        """Whether somebody signed the same words in both, however they are wrapped."""
        both = [
            (envelope.opened(text, "approval"), envelope.signers(text, self._keys, "approval")) for text in (one, other)
        ]
        return both[0][0] == both[1][0] and bool(both[0][1] & both[1][1])

    def _approvers(self, text: str, wanted: tuple[Subject, ...], where: str) -> list[str]:
        statement = envelope.opened(text, where)
        if statement.predicate_type != PREDICATE or statement.subject != wanted:
            shown = " and ".join(subject.name for subject in statement.subject)
            raise Refused(f"{where}: it is of {shown or 'nothing'}, by other digests or in another's place")
        names = sorted(self._names[key] for key in envelope.signers(text, self._keys, where))
        if not names:
            raise Refused(f"{where}: expected a signature of one of {sorted(self._names.values())}")
        return names
