"""What a client trusts and how it identifies itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from gnomon_client.errors import InputError


@dataclass(frozen=True)
class Tls:
    """Encryption; each part is PEM, given as bytes or as the path of a file that is read when the client is made."""

    # Certificates that the server's is checked against; None: those that gRPC ships with.
    root_certificates: bytes | Path | None = None
    # For mutual TLS: the client's own key and certificate, both or neither.
    private_key: bytes | Path | None = None
    certificate_chain: bytes | Path | None = None


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Returns the channel credentials; raises InputError for what cannot be read or is no PEM."""
    if (tls.private_key is None) != (tls.certificate_chain is None):
        missing = "private_key" if tls.private_key is None else "certificate_chain"
        raise InputError(f"tls: expected private_key and certificate_chain together, received no {missing}")
    return grpc.ssl_channel_credentials(
        _pem("root_certificates", tls.root_certificates),
        _pem("private_key", tls.private_key),
        _pem("certificate_chain", tls.certificate_chain),
    )


def _pem(name: str, value: bytes | Path | None) -> bytes | None:
    if value is None:
        return None
    data = _read(name, value) if isinstance(value, Path) else value
    if b"-----BEGIN " not in data:
        # Never shown: it may be a key.
        raise InputError(f"tls: {name}: expected PEM, received {len(data)} bytes without a BEGIN line")
    return data


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"tls: {name}: expected a readable file, received '{path}': {error.strerror}") from None
