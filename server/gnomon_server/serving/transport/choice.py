"""The choice of a transport, by name.

To add one: a module with a class that is made like the others, and one line in TRANSPORTS.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Final, Protocol

from gnomon_server.serving.transport import AfterPass, Methods, Observer, Transport
from gnomon_server.serving.transport.tls import Tls

log = logging.getLogger(__name__)

TRANSPORTS: Final = {
    "http2": "gnomon_server.serving.transport.http2:Http2Transport",
    "grpcio": "gnomon_server.serving.transport.grpcio:GrpcioTransport",
}
FALLBACK: Final = "grpcio"


class Maker(Protocol):
    """Makes a transport."""

    def __call__(
        self,
        methods: Methods,
        observer: Observer,
        after_pass: AfterPass,
        address: str,
        max_message_bytes: int,
        tls: Tls | None = None,
    ) -> Transport:
        """Returns a transport that does not listen yet; raises InvalidRequest for files of `tls` that do not do."""


def transport(name: str) -> Maker:
    """Returns the class of a transport; where its library is missing, the fallback's with a warning."""
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if name == FALLBACK:
            raise
        log.warning("transport %s needs %s, which is not installed: using %s", name, error.name, FALLBACK)
        return _load(FALLBACK)


def _load(name: str) -> Maker:
    module, _, attribute = TRANSPORTS[name].partition(":")
    maker: Maker = getattr(import_module(module), attribute)
    return maker
