"""The memory of a server that shares its store: what it last knew, for a start while the database is away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Final

import msgspec

from gnomon_server.control.audit import files
from gnomon_server.control.routes import Route
from gnomon_server.errors import NotReady

log = logging.getLogger(__name__)

FILE: Final = "known.json"


class Digest(msgspec.Struct, frozen=True):
    """The digest that was seen first of a version."""

    model: str
    version: int
    digest: str


class Known(msgspec.Struct, frozen=True):
    """Routes and digests as they were stored when this server last heard of them."""

    routes: tuple[Route, ...] = ()
    digests: tuple[Digest, ...] = ()


class Memory:
    """A file in the state folder, written anew where something changed; may be used from any thread."""

    def __init__(self, folder: Path) -> None:
        """Reads the file; raises NotReady if there is one that cannot be read."""
        self._file = folder / FILE
        self._mutex = Lock()
        try:
            self._known = msgspec.json.decode(self._file.read_bytes(), type=Known)
        except FileNotFoundError:
            self._known = Known()
        except (OSError, msgspec.DecodeError) as error:
            raise NotReady(f"{self._file}: cannot be read: {error}") from None

    @property
    def routes(self) -> dict[str, Route]:
        """The routes by model; empty where nothing was ever known."""
        return {route.model: route for route in self._known.routes}

    @property
    def digests(self) -> dict[tuple[str, int], str]:
        """The digests by model and version."""
        return {(one.model, one.version): one.digest for one in self._known.digests}

    def learn(self, routes: Mapping[str, Route], digests: Mapping[tuple[str, int], str]) -> None:
        """Keeps what is known now beside what was; that it cannot be written is only logged, as it is stored."""
        with self._mutex:
            digests = {**self.digests, **digests}
            # What was read before a change may come after it.
            newest = {**self.routes, **routes}
            for model, route in self.routes.items():
                newest[model] = max(route, newest[model], key=lambda one: one.generation)
            known = Known(
                tuple(newest.values()),
                tuple(Digest(model, version, digest) for (model, version), digest in sorted(digests.items())),
            )
            if known == self._known:
                return
            try:
                files.write(self._file, msgspec.json.encode(known).decode())
            except OSError as error:
                log.error("%s: cannot be written: %s", self._file, error.strerror)
            else:
                self._known = known
