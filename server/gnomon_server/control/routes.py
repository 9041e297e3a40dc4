"""The route of a model: which version has which role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gnomon_server.errors import InvalidRequest, NotFound, Refused


@dataclass(frozen=True)
class Delivery:
    """How far a canary has come on its way to be the primary."""

    # The index of the step in the settings.
    step: int
    # When the step began, in seconds since the epoch.
    began: float
    paused: bool = False


@dataclass(frozen=True)
class Route:
    """Who has which role for one model; every change is a new value with the next generation."""

    model: str
    generation: int = 0
    # 0: none.
    primary: int = 0
    # The version that rollback returns to; 0: none. After a delivery it is a shadow too.
    previous: int = 0
    # Version to share of mirrored requests, in (0, 1].
    shadows: dict[int, float] = field(default_factory=dict)
    # Versions that have no role; they do not become shadows by themselves again.
    idle: frozenset[int] = frozenset()
    # The version that answers a share of the requests, in (0, 1]; 0: none. It may be a shadow of the rest as well.
    canary: int = 0
    weight: float = 0.0
    # The generation that gave the canary its share, or made the primary that is watched; 0: neither.
    since: int = 0
    # None: its share changes by hand.
    delivery: Delivery | None = None
    # Until when the server returns to the previous version if the primary fails, in seconds since the epoch.
    watched: float = 0.0

    def role(self, version: int) -> str:
        """Returns "primary", "canary", "previous", "shadow" or "" for a version."""
        if version == self.primary:
            return "primary"
        if version == self.canary:
            return "canary"
        if version == self.previous:
            return "previous"
        return "shadow" if version in self.shadows else ""

    def discovered(self, versions: frozenset[int]) -> Route:
        """Returns the route after versions appeared on disk.

        The first version of a model becomes its primary; one that appears beside a primary begins as a shadow of all
        requests, whatever its number, because only a promotion makes a version meet users.
        """
        unknown = versions - self.idle - self.shadows.keys() - {self.primary, self.previous, self.canary}
        if not unknown:
            return self
        primary = self.primary or min(unknown)
        shadows = self.shadows | dict.fromkeys(sorted(unknown - {primary}), 1.0)
        return self._next(primary=primary, shadows=shadows)

    def vanished(self, versions: frozenset[int]) -> Route:
        """Returns the route after versions left the disk; one that answers keeps its role, loaded as it is."""
        shadows = {version: sample for version, sample in self.shadows.items() if version not in versions}
        idle = self.idle - versions
        if shadows == self.shadows and idle == self.idle:
            return self
        return self._next(shadows=shadows, idle=idle)

    def shadowed(self, version: int, sample: float) -> Route:
        """Returns the route with a version as shadow of a share of the requests."""
        if not 0 < sample <= 1:
            raise InvalidRequest(f"model '{self.model}': sample: expected a share in (0, 1], received {sample:g}")
        if version == self.primary:
            raise Refused(f"model '{self.model}' version '{version}' is the primary and cannot shadow itself")
        moved = version == self.previous and version not in self.shadows
        previous, shadows = 0 if moved else self.previous, {**self.shadows, version: sample}
        return self._next(previous=previous, shadows=shadows, idle=self.idle - {version})

    def unshadowed(self, version: int) -> Route:
        """Returns the route without a shadow."""
        if version not in self.shadows:
            shadows = sorted(self.shadows)
            raise NotFound(f"model '{self.model}' version '{version}' is not a shadow: expected one of {shadows}")
        idle = self.idle if version in (self.canary, self.previous) else self.idle | {version}
        return self._next(shadows=self._without(version), idle=idle)

    def diverted(self, version: int, weight: float) -> Route:
        """Returns the route with a version as canary that answers a share of the requests, in place of any other."""
        if not 0 < weight <= 1:
            raise InvalidRequest(f"model '{self.model}': weight: expected a share in (0, 1], received {weight:g}")
        if version == self.primary:
            raise Refused(f"model '{self.model}' version '{version}' is the primary and cannot be its canary")
        route = self if self.canary in (0, version) else self.undiverted()
        previous = 0 if version == self.previous else self.previous
        return self._next(previous=previous, idle=route.idle - {version}, canary=version, weight=weight)

    def delivered(self, version: int, weight: float, delivery: Delivery) -> Route:
        """Returns the route with a version as canary that is on its way to be the primary."""
        return replace(self.diverted(version, weight), delivery=delivery)

    def paused(self, paused: bool) -> Route:
        """Returns the route whose delivery waits, or goes on; raises Refused where there is none, or it does so."""
        if self.delivery is None or self.delivery.paused == paused:
            what = "delivers no version" if self.delivery is None else f"is {'paused' if paused else 'not paused'}"
            raise Refused(f"model '{self.model}' {what}")
        return replace(self._next(), delivery=replace(self.delivery, paused=paused))

    def undiverted(self) -> Route:
        """Returns the route without its canary, which stays a shadow if it is one."""
        if not self.canary:
            raise NotFound(f"model '{self.model}' has no canary")
        return self._next(idle=self._idle_without_canary(), canary=0, weight=0.0)

    def promoted(self, version: int) -> Route:
        """Returns the route with a version as primary and no canary; the old primary stays warm for a rollback."""
        if version == self.primary:
            raise Refused(f"model '{self.model}' version '{version}' is the primary already")
        shadows = self._without(version)
        idle = (self._idle_without_canary() | ({self.previous} - {0} - shadows.keys())) - {version}
        return self._next(primary=version, previous=self.primary, shadows=shadows, idle=idle, canary=0, weight=0.0)

    def handed_over(self, watched: float) -> Route:
        """Returns the route with the canary as primary, watched until a time beside the old one, now its shadow."""
        route = self.promoted(self.canary)
        shadows = {**route.shadows, self.primary: 1.0}
        return replace(route, shadows=shadows, watched=watched, since=route.generation)

    def assigned(self, primary: int, shadows: Mapping[int, float], canary: int = 0, weight: float = 0.0) -> Route:
        """Returns the route with this primary, these shadows and this canary, if any; itself where it has them.

        An old primary that is not among the shadows stays warm for a rollback. What loses its role stays idle.
        """
        route = self.promoted(primary) if primary != self.primary else self
        if not canary and route.canary:
            route = route.undiverted()
        for version, sample in shadows.items():
            route = route.shadowed(version, sample)
        for version in route.shadows.keys() - shadows.keys():
            route = route.unshadowed(version)
        if canary and (canary, weight) != (route.canary, route.weight):
            route = route.diverted(canary, weight)
        same = replace(route, generation=self.generation) == self
        # However many steps led here, it is one change.
        since = route.since if route.since <= self.generation else self.generation + 1
        return self if same else replace(route, generation=self.generation + 1, since=since)

    def rolled_back(self) -> Route:
        """Returns the route with the previous primary as primary again, the other one in the shadow, and no canary."""
        if not self.previous:
            raise Refused(f"model '{self.model}' has no previous version to roll back to")
        shadows = {**self._without(self.previous), self.primary: 1.0}
        idle = self._idle_without_canary()
        return self._next(primary=self.previous, previous=0, shadows=shadows, idle=idle, canary=0, weight=0.0)

    def _next(
        self,
        primary: int | None = None,
        previous: int | None = None,
        shadows: dict[int, float] | None = None,
        idle: frozenset[int] | None = None,
        canary: int | None = None,
        weight: float | None = None,
    ) -> Route:
        return replace(
            self,
            generation=self.generation + 1,
            primary=self.primary if primary is None else primary,
            previous=self.previous if previous is None else previous,
            shadows=self.shadows if shadows is None else shadows,
            idle=self.idle if idle is None else idle,
            canary=self.canary if canary is None else canary,
            weight=self.weight if weight is None else weight,
            since=self.since if canary is None else (self.generation + 1 if canary else 0),
            # Whoever changes the canary takes it in hand.
            delivery=self.delivery if canary is None else None,
            watched=self.watched if canary is None else 0.0,
        )

    def _idle_without_canary(self) -> frozenset[int]:
        """Returns what is idle once there is no canary: with it, unless it is a shadow."""
        return self.idle | ({self.canary} - {0} - self.shadows.keys())

    def _without(self, version: int) -> dict[int, float]:
        return {other: sample for other, sample in self.shadows.items() if other != version}
