"""The plan of a frontend: pure functions from the desired state to the whole wish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal

import msgspec

from gnomon_server.control.routes import Route
from gnomon_server.settings import DriftSettings, LatestVersions
from gnomon_server.wire.plans import FrontendPlan, ModelPlan, ShadowFeed, VersionRef

# (model, version)
Key = tuple[str, int]
NO_FACTORS: Final[Mapping[str, float]] = {}


def frontend_plan(
    generation: int,
    routes: Mapping[str, Route],
    refs: Mapping[Key, VersionRef],
    feeds: Mapping[Key, ShadowFeed],
    warm: frozenset[Key] = frozenset(),
    factors: Mapping[str, float] = NO_FACTORS,
) -> FrontendPlan:
    """Returns the plan for every frontend.

    A version is loaded if it is primary, canary, previous or among `warm`, for a change or to answer when it is named,
    and on disk; a shadow is mirrored to once its worker has been ready, at its share times the model's factor. A model
    without a primary is there and answers nothing.
    """
    models = [_model_plan(route, refs, feeds, warm, factors.get(name, 1.0)) for name, route in sorted(routes.items())]
    return FrontendPlan(generation, tuple(models))


def _model_plan(
    route: Route,
    refs: Mapping[Key, VersionRef],
    feeds: Mapping[Key, ShadowFeed],
    warm: frozenset[Key],
    factor: float,
) -> ModelPlan:
    roles = {route.primary, route.canary, route.previous} - {0}
    answering = roles | {version for model, version in warm if model == route.model}
    return ModelPlan(
        name=route.model,
        primary=route.primary,
        versions=tuple(refs[route.model, version] for version in sorted(answering) if (route.model, version) in refs),
        shadows=tuple(
            _with_sample(feeds[route.model, version], sample * factor)
            for version, sample in sorted(route.shadows.items())
            if (route.model, version) in feeds
        ),
        named=tuple(sorted(answering - roles)),
        canary=route.canary,
        weight=route.weight,
    )


def watched(route: Route, settings: DriftSettings) -> Route:
    """Returns a route as it is mirrored: a primary without a shadow is its own, if its traffic is to be counted so."""
    if route.shadows or not route.primary or not settings.window or not settings.unshadowed:
        return route
    return replace(route, shadows={route.primary: settings.unshadowed})


def named(policy: Literal["all"] | LatestVersions | tuple[int, ...], versions: Iterable[int]) -> frozenset[int]:
    """Returns which of the versions on disk a policy has answer when they are named."""
    if isinstance(policy, LatestVersions):
        return frozenset(sorted(versions)[-policy.latest :])
    return frozenset(versions) if policy == "all" else frozenset(versions) & frozenset(policy)


def _with_sample(feed: ShadowFeed, sample: float) -> ShadowFeed:
    return msgspec.structs.replace(feed, sample=sample)
