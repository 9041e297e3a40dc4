"""The route table of a frontend: which loaded version answers a request, and who mirrors it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from gnomon_server.errors import InvalidRequest, NotFound, NotReady, quoted
from gnomon_server.models.servable import Servable
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.split import Split

VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class ModelRoute:
    """One model: what answers, what mirrors."""

    name: str
    # None: nothing answers unless a version is named.
    primary: Servable | None
    # Every loaded version that may answer when it is named.
    versions: Mapping[int, Servable]
    feeds: tuple[Feed, ...]
    # Versions that are on their way.
    loading: frozenset[int] = frozenset()
    # Whether it is meant to have no primary.
    unloaded: bool = False
    # Which requests a canary answers, if there is one.
    split: Split | None = None
    # Versions without a role.
    named: frozenset[int] = frozenset()

    def role(self, servable: Servable) -> str:
        """Returns the role of one of the versions."""
        if servable is self.primary:
            return "primary"
        if self.split is not None and servable is self.split.canary:
            return "canary"
        return "named" if servable.version in self.named else "previous"

    def resolve(self, version: str) -> Servable:
        """Returns the version that answers; empty is the primary. Raises NotFound, NotReady or InvalidRequest."""
        if not version:
            if self.primary is None and self.loading:
                raise NotReady(f"model '{self.name}': not ready: LOADING")
            if self.primary is None:
                raise NotFound(f"model '{self.name}': no version is loaded")
            return self.primary
        if not VERSION.fullmatch(version):
            expected = "version: expected a positive integer or nothing"
            raise InvalidRequest(f"model '{self.name}': {expected}, received {quoted(version)}")
        if int(version) in self.loading:
            raise NotReady(f"model '{self.name}' version '{version}': not ready: LOADING")
        servable = self.versions.get(int(version))
        if servable is None:
            known = f"expected one of {sorted(self.versions)}" if self.versions else "none is loaded"
            raise NotFound(f"model '{self.name}': version '{version}' not found: {known}")
        return servable


@dataclass(frozen=True)
class RouteTable:
    """All models at one moment; replaced whole, so that a request sees one state from beginning to end."""

    models: Mapping[str, ModelRoute] = field(default_factory=dict)

    def model(self, name: str) -> ModelRoute:
        """Returns a model's route; raises InvalidRequest for an empty name, NotFound for an unknown one."""
        route = self.models.get(name)
        if route is not None:
            return route
        if not name:
            raise InvalidRequest("model name is empty")
        raise NotFound(f"model {quoted(name)} not found")

    def feeds(self, name: str) -> tuple[Feed, ...]:
        """Returns where a model's requests are mirrored to."""
        route = self.models.get(name)
        return route.feeds if route is not None else ()

    def awaiting(self, loading: Mapping[str, frozenset[int]]) -> RouteTable:
        """Returns this table with versions by model marked as on their way; what answers goes on answering."""
        names = self.models.keys() | loading.keys()
        routes = {name: self.models.get(name, ModelRoute(name, None, {}, ())) for name in names}
        return RouteTable({name: replace(routes[name], loading=loading.get(name, frozenset())) for name in names})

    @property
    def ready(self) -> bool:
        """Whether every model has a primary that can answer, but for those on their way and those unloaded."""
        return all(route.primary is not None or route.loading or route.unloaded for route in self.models.values())
