from __future__ import annotations

from typing import Literal

import pytest

from gnomon_server.control.plan import Key, frontend_plan, named, watched
from gnomon_server.control.routes import Route
from gnomon_server.settings import DriftSettings, LatestVersions
from gnomon_server.wire.plans import ModelPlan, ShadowFeed, VersionRef


def ref(version: int, model: str = "m") -> VersionRef:
    return VersionRef(model, version, f"/models/{model}/{version}")


def feed(version: int, sample: float = 1.0) -> ShadowFeed:
    return ShadowFeed("m", version, sample, f"/run/{version}.sock", f"epoch-{version}")


REFS: dict[Key, VersionRef] = {("m", version): ref(version) for version in (1, 2, 3, 4)}
FEEDS: dict[Key, ShadowFeed] = {("m", version): feed(version) for version in (3, 4)}


def plan_of(route: Route, refs: dict[Key, VersionRef] = REFS, warm: frozenset[Key] = frozenset()) -> ModelPlan:
    (plan,) = frontend_plan(1, {route.model: route}, refs, FEEDS, warm).models
    return plan


def test_without_a_route_nothing_is_wished() -> None:
    assert frontend_plan(7, {}, REFS, FEEDS).models == ()
    assert frontend_plan(7, {}, REFS, FEEDS).generation == 7
    # A model that was unloaded, or lost every version before one answered, is there and loads nothing.
    assert frontend_plan(7, {"m": Route("m", 3)}, REFS, FEEDS).models == (ModelPlan("m", 0, (), ()),)


def test_the_primary_and_the_previous_version_are_loaded_and_shadows_are_not() -> None:
    plan = plan_of(Route("m", 1, primary=2, previous=1, shadows={3: 1.0}))
    assert (plan.primary, plan.versions) == (2, (ref(1), ref(2)))


def test_a_version_to_be_warm_is_loaded_beside_what_serves() -> None:
    route = Route("m", 1, primary=2, shadows={3: 1.0})
    plan = plan_of(route, warm=frozenset({("m", 3), ("other", 4)}))
    assert plan.versions == (ref(2), ref(3))
    assert plan.primary == 2
    assert [target.version for target in plan.shadows] == [3]


def test_a_canary_is_loaded_and_mirrored_to_where_it_is_a_shadow_too() -> None:
    plan = plan_of(Route("m", 1, primary=2, shadows={3: 1.0}, canary=3, weight=0.05))
    assert (plan.versions, plan.canary, plan.weight) == ((ref(2), ref(3)), 3, 0.05)
    assert plan.shadows == (feed(3),)


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ((), set()),
        ((3, 1, 9), {1, 3}),
        (LatestVersions(2), {10, 3}),
        (LatestVersions(9), {1, 2, 3, 10}),
        ("all", {1, 2, 3, 10}),
    ],
)
def test_a_policy_chooses_among_the_versions_on_disk(
    policy: Literal["all"] | LatestVersions | tuple[int, ...], chosen: set[int]
) -> None:
    assert named(policy, [10, 1, 3, 2]) == chosen
    assert named(policy, []) == frozenset()


def test_what_is_loaded_without_a_role_answers_only_when_it_is_named() -> None:
    plan = plan_of(Route("m", 1, primary=2, previous=1), warm=frozenset({("m", 1), ("m", 4)}))
    assert (plan.versions, plan.named) == ((ref(1), ref(2), ref(4)), (4,))


def test_a_shadow_is_fed_its_share_once_its_worker_has_been_ready() -> None:
    plan = plan_of(Route("m", 1, primary=1, shadows={2: 1.0, 4: 0.25, 3: 0.5}))
    assert plan.shadows == (feed(3, 0.5), feed(4, 0.25))


def test_a_version_whose_files_are_gone_is_not_asked_for() -> None:
    plan = plan_of(Route("m", 1, primary=2, previous=1), refs={("m", 2): ref(2)})
    assert plan.versions == (ref(2),)
    assert plan_of(Route("m", 1, primary=2), refs={}).versions == ()


def test_equal_wishes_are_equal_plans_whatever_the_order_of_their_parts() -> None:
    routes = {"b": Route("b", 1, 1), "a": Route("a", 1, 1, shadows={3: 1.0, 2: 0.5})}
    other = {"a": Route("a", 9, 1, shadows={2: 0.5, 3: 1.0}), "b": Route("b", 7, 1)}
    refs = {(name, 1): ref(1, name) for name in "ab"}
    feeds = {("a", version): feed(version) for version in (3, 2)}
    again = {("a", version): feed(version) for version in (2, 3)}
    assert frontend_plan(1, routes, refs, feeds) == frontend_plan(1, other, refs, again)
    assert [model.name for model in frontend_plan(1, routes, refs, feeds).models] == ["a", "b"]


@pytest.mark.parametrize(
    ("route", "drift", "shadows"),
    [
        (Route("m", 1, primary=3), DriftSettings(unshadowed=0.1), {3: 0.1}),
        (Route("m", 1, primary=3), DriftSettings(), {}),
        (Route("m", 1, primary=3), DriftSettings(window=0, unshadowed=0.1), {}),
        (Route("m", 1, primary=3, shadows={2: 0.5}), DriftSettings(unshadowed=0.1), {2: 0.5}),
        (Route("m", 1), DriftSettings(unshadowed=0.1), {}),
    ],
)
def test_a_primary_without_a_shadow_is_mirrored_to_itself_where_its_drift_is_watched_so(
    route: Route, drift: DriftSettings, shadows: dict[int, float]
) -> None:
    assert watched(route, drift).shadows == shadows
