"""Keys for tests: made anew, in files as their owners have them."""

from __future__ import annotations

from pathlib import Path

from gnomon_server.control.audit.signing import FILE, PUBLIC_FILE, PublicKey, Signer


def signer(folder: Path) -> Signer:
    """Returns the signer of a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return Signer.of_folder(folder)


def private(folder: Path) -> Path:
    """Returns the file of a folder's private key."""
    signer(folder)
    return folder / FILE


def public(folder: Path) -> Path:
    """Returns the file of a folder's public key."""
    signer(folder)
    return folder / PUBLIC_FILE


def trusted(*signers: Signer) -> dict[str, PublicKey]:
    """Returns the public keys of signers by their ids."""
    return {one.public.id: one.public for one in signers}
