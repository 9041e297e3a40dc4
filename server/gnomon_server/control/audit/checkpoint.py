"""The checkpoint: a signed word on how long the audit was at one moment, worth most out of the server's reach."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from gnomon_server.control.audit import files
from gnomon_server.control.audit.signing import PublicKey, Signer
from gnomon_server.errors import InvalidRequest

log = logging.getLogger(__name__)

FILE: Final = "audit.checkpoint"
_SIGNED: Final = "gnomon audit checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """What the newest entry was."""

    # The number of the newest entry, and so of all entries.
    entries: int
    hash: str
    # RFC 3339, UTC: when the newest entry was written.
    time: str
    key: str
    signature: str

    @classmethod
    def signed(cls, entries: int, digest: str, time: str, signer: Signer) -> Checkpoint:
        """Returns the checkpoint of an entry."""
        return cls(entries, digest, time, signer.public.id, signer.sign(_content(entries, digest, time)))

    @classmethod
    def parsed(cls, text: str | bytes, where: str) -> Checkpoint:
        """Returns the checkpoint of a JSON text; raises InvalidRequest if it is none."""
        try:
            return msgspec.json.decode(text, type=Checkpoint)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"{where}: expected a checkpoint of the audit: {error}") from None

    @property
    def text(self) -> str:
        """The checkpoint as JSON."""
        return msgspec.json.encode(self).decode()

    def genuine(self, key: PublicKey) -> bool:
        """Whether it was signed by a key."""
        return key.signed(_content(self.entries, self.hash, self.time), self.signature)


class Witness:
    """The checkpoint of the newest entry that this server wrote, in a file beside the store."""

    def __init__(self, folder: Path, signer: Signer) -> None:
        """Takes the checkpoint that is in the folder; raises InvalidRequest if it cannot be read."""
        self._file = folder / FILE
        self._signer = signer
        self.newest: Checkpoint | None = None
        if self._file.exists():
            self.newest = Checkpoint.parsed(self._file.read_bytes(), str(self._file))

    def saw(self, number: int, digest: str, time: str) -> None:
        """Takes the newest entry, after it is durable: of two that are possible the checkpoint names the older."""
        self.newest = Checkpoint.signed(number, digest, time, self._signer)
        try:
            files.write(self._file, self.newest.text)
        except OSError as error:
            # The change is made; that it is not witnessed must not tell the caller otherwise.
            log.error("%s: cannot be written: %s", self._file, error.strerror)


def _content(entries: int, digest: str, time: str) -> bytes:
    return "\n".join((_SIGNED, str(entries), digest, time)).encode()
