"""Transport security: which files hold the server's certificate, and whose clients may come in."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from gnomon_server.errors import InvalidRequest
from gnomon_server.settings import TlsSettings

# Seconds between two looks at the files.
LOOK: Final = 1.0
PROTOCOL: Final = "h2"
# Below TLS 1.3, what RFC 9113 (9.2.2) leaves: forward secrecy and authenticated encryption.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Tls:
    """PEM files; what they hold may change while the server runs, and counts for connections from then on."""

    # The server's certificate and whatever stands between it and the root; its private key, without a password.
    certificate: Path
    key: Path
    # Authorities that sign clients' certificates: with it, a client must have one.
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files there are."""
        named = (self.certificate, self.key, self.client_ca)
        return tuple(path for path in named if path is not None)


def configured(settings: TlsSettings) -> Tls | None:
    """Returns what the settings name, None for plain text; raises InvalidRequest for files that do not do."""
    if not settings.certificate:
        return None
    tls = Tls(Path(settings.certificate), Path(settings.key), Path(settings.client_ca) if settings.client_ca else None)
    Reloaded(tls, context)
    return tls


def context(tls: Tls) -> ssl.SSLContext:
    """Returns what handshakes need; raises OSError (ssl.SSLError is one) or ValueError for files that do not do."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    made.set_alpn_protocols([PROTOCOL])
    # A password would be asked for on the terminal.
    made.load_cert_chain(tls.certificate, tls.key, password=lambda: b"")
    if tls.client_ca is not None:
        made.load_verify_locations(tls.client_ca)
        made.verify_mode = ssl.CERT_REQUIRED
    return made


class Reloaded(Generic[Loaded]):
    """What is made of the files, made anew after they have changed; the last that could be made stays in use."""

    def __init__(self, tls: Tls, load: Callable[[Tls], Loaded], clock: Callable[[], float] = time.monotonic) -> None:
        """Loads at once; raises InvalidRequest if that cannot be done."""
        self._tls, self._load, self._clock = tls, load, clock
        self._seen = _stamps(tls)
        self._looked = clock()
        self.value = self._loaded()

    def renew(self) -> bool:
        """Loads again if a file changed; returns whether there is a new value.

        Raises InvalidRequest if what is there now cannot be loaded; it is tried again at the next change.
        """
        now = self._clock()
        if now - self._looked < LOOK:
            return False
        self._looked = now
        stamps = _stamps(self._tls)
        if stamps == self._seen:
            return False
        self._seen = stamps
        self.value = self._loaded()
        return True

    def _loaded(self) -> Loaded:
        try:
            return self._load(self._tls)
        except (OSError, ValueError) as error:
            names = ", ".join(f"'{path}'" for path in self._tls.files)
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "no PEM"
            raise InvalidRequest(f"tls: expected a certificate, its key and authorities in {names}: {reason}") from None


def _stamps(tls: Tls) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stamp(path) for path in tls.files)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - follows the links by which secrets are swapped
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
