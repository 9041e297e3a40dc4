"""Keys: ed25519 in PEM files, the only import of cryptography."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from gnomon_server.control.audit import files
from gnomon_server.errors import InvalidRequest, NotReady

FILE: Final = "signing.pem"
PUBLIC_FILE: Final = "signing.pub.pem"


class PublicKey:
    """What tells whether a signature is genuine."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        # SHA-256 of the 32 bytes of the key, in hexadecimal.
        self.id = hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()

    @classmethod
    def parsed(cls, pem: bytes, where: str) -> Self:
        """Returns the key of a PEM text; raises InvalidRequest if it is none."""
        try:
            key = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise InvalidRequest(f"{where}: expected an ed25519 public key in PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidRequest(f"{where}: expected an ed25519 public key in PEM, received another kind")
        return cls(key)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Returns the key of a PEM file; raises InvalidRequest if it is none."""
        return cls.parsed(_content(file), str(file))

    @property
    def pem(self) -> str:
        """The key as text."""
        return self._key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def signed(self, data: bytes, signature: str) -> bool:
        """Whether a signature, in base64, is this key's of the data."""
        try:
            self._key.verify(base64.b64decode(signature, validate=True), data)
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """Signs with a private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def made(cls) -> Self:
        """Returns the signer of a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Returns the signer of a PEM file without a password; raises InvalidRequest if it is none."""
        try:
            key = load_pem_private_key(_content(file), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidRequest(f"{file}: expected an ed25519 private key in PEM without a password") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidRequest(f"{file}: expected an ed25519 private key, received another kind")
        return cls(key)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Returns the signer of a state folder; a new key is made, and its public half put beside it, where none is."""
        file = folder / FILE
        try:
            if not file.exists():
                files.write(file, cls.made()._private_pem(), mode=0o600)
            signer = cls.read(file)
            files.write(folder / PUBLIC_FILE, signer.public.pem)
        except OSError as error:
            raise NotReady(f"{folder}: the key of the audit cannot be written: {error.strerror}") from None
        return signer

    def sign(self, data: bytes) -> str:
        """Returns the signature of the data in base64."""
        return base64.b64encode(self._key.sign(data)).decode()

    def _private_pem(self) -> str:
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read: {error.strerror}") from None
