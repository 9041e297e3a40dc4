"""TLS without I/O: records in, plain bytes out, and back."""

from __future__ import annotations

import ssl
from typing import Final

from gnomon_server.serving.transport.tls import PROTOCOL

_READ: Final = 256 << 10


class Secure:
    """One connection's TLS."""

    def __init__(self, using: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = using.wrap_bio(self._in, self._out, server_side=True)
        # Whether the handshake is done.
        self.ready = False

    def received(self, data: bytes | memoryview) -> tuple[bytes, bool]:
        """Takes records; returns what was in them, and whether the peer has ended.

        Raises ssl.SSLError if the peer cannot be talked to; `sealed` then has the alert.
        """
        self._in.write(data)
        if not self.ready:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return b"", False
            if self._tls.selected_alpn_protocol() != PROTOCOL:
                raise ssl.SSLError("the client does not offer h2")
            self.ready = True
        chunks: list[bytes] = []
        try:
            while chunk := self._tls.read(_READ):
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            return b"".join(chunks), False
        except ssl.SSLZeroReturnError:
            pass
        return b"".join(chunks), True

    def sealed(self, data: bytes) -> bytes:
        """Takes plain bytes, none before `ready`; returns all records that wait for the peer."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        return self._out.read()
