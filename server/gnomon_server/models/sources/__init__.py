"""Sources of versions: each states the whole set that should be there, never a change.

To add one: a module with a class of two methods as in `Source`, and one line in SOURCES.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final, Protocol
from urllib.parse import urlsplit

from gnomon_server.errors import InvalidRequest
from gnomon_server.wire.plans import VersionRef


class Source(Protocol):
    """Where versions come from; stateless, so that a look can be repeated at any time."""

    def versions(self) -> frozenset[VersionRef]:
        """Returns every version that is there now and complete; raises GnomonError if the source cannot be read."""


# URL scheme to "module:class", a class that takes the URL.
SOURCES: Final = {
    "": "gnomon_server.models.sources.directory:Directory",
    "file": "gnomon_server.models.sources.directory:Directory",
}


def source(url: str) -> Source:
    """Returns the source that a URL names; raises InvalidRequest for a scheme that is not in SOURCES."""
    scheme = urlsplit(url).scheme
    if scheme not in SOURCES:
        known = ", ".join(f"{name}://" for name in SOURCES if name)
        raise InvalidRequest(f"repository: expected a folder or one of {known}, received '{url}'")
    module, _, name = SOURCES[scheme].partition(":")
    made: Source = getattr(import_module(module), name)(url)
    return made
