from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gnomon_server.control.routes import Delivery, Route
from gnomon_server.errors import GnomonError, InvalidRequest, NotFound, Refused

SERVING = Route("m", 5, primary=2, previous=1, shadows={3: 0.5, 4: 1.0}, idle=frozenset({9}))


def test_the_first_version_becomes_the_primary_and_the_next_one_its_shadow() -> None:
    first = Route("m").discovered(frozenset({4}))
    assert (first.generation, first.primary, first.shadows) == (1, 4, {})
    second = first.discovered(frozenset({4, 2, 7}))
    assert (second.generation, second.primary, second.shadows) == (2, 4, {2: 1.0, 7: 1.0})


def test_of_several_first_versions_the_lowest_answers() -> None:
    found = Route("m").discovered(frozenset({3, 2, 10}))
    assert (found.primary, found.shadows) == (2, {3: 1.0, 10: 1.0})


@pytest.mark.parametrize("versions", [frozenset(), frozenset({2}), frozenset({1, 2, 3, 4, 9}), frozenset({9})])
def test_what_is_known_already_is_no_discovery(versions: frozenset[int]) -> None:
    assert SERVING.discovered(versions) is SERVING


def test_a_shadow_that_vanishes_is_forgotten_and_what_answers_is_not() -> None:
    found = SERVING.vanished(frozenset({1, 2, 3, 9}))
    assert (found.generation, found.primary, found.previous) == (6, 2, 1)
    assert (found.shadows, found.idle) == ({4: 1.0}, frozenset())
    assert SERVING.vanished(frozenset({1, 2, 77})) is SERVING


def test_a_version_that_returns_begins_anew_as_a_shadow() -> None:
    assert SERVING.vanished(frozenset({9})).discovered(frozenset({9})).shadows[9] == 1.0


@pytest.mark.parametrize("version", [1, 3, 9, 77], ids=["previous", "shadow", "idle", "unknown"])
def test_any_version_but_the_primary_may_become_a_shadow(version: int) -> None:
    found = SERVING.shadowed(version, 0.25)
    assert found.shadows == {**SERVING.shadows, version: 0.25}
    assert found.role(version) == "shadow"
    assert found.primary == 2
    assert version not in found.idle
    assert found.previous == (0 if version == 1 else 1)


@pytest.mark.parametrize("sample", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_share_outside_its_range_is_refused_by_value(sample: float) -> None:
    with pytest.raises(InvalidRequest, match=r"model 'm': sample: expected a share in \(0, 1\], received"):
        SERVING.shadowed(3, sample)


def test_the_primary_cannot_shadow_itself() -> None:
    with pytest.raises(Refused, match="version '2' is the primary"):
        SERVING.shadowed(2, 1.0)


def test_a_shadow_that_is_turned_off_does_not_come_back_by_itself() -> None:
    off = SERVING.unshadowed(3)
    assert (off.shadows, off.idle) == ({4: 1.0}, frozenset({3, 9}))
    assert off.role(3) == ""
    assert off.discovered(frozenset({1, 2, 3, 4, 9})) is off
    with pytest.raises(NotFound, match=r"version '3' is not a shadow: expected one of \[4\]"):
        off.unshadowed(3)


@pytest.mark.parametrize(
    ("version", "idle", "shadows"),
    [
        (3, {1, 9}, {4: 1.0}),
        (9, {1}, {3: 0.5, 4: 1.0}),
        (1, {9}, {3: 0.5, 4: 1.0}),
    ],
    ids=["a shadow", "an idle one", "the previous one"],
)
def test_a_promotion_keeps_the_old_primary_for_a_rollback(
    version: int, idle: set[int], shadows: dict[int, float]
) -> None:
    found = SERVING.promoted(version)
    assert (found.primary, found.previous, found.generation) == (version, 2, 6)
    assert (set(found.idle), found.shadows) == (idle, shadows)


def test_the_primary_cannot_be_promoted_again() -> None:
    with pytest.raises(Refused, match="version '2' is the primary already"):
        SERVING.promoted(2)


def test_a_rollback_puts_what_it_takes_away_back_into_the_shadow() -> None:
    found = SERVING.rolled_back()
    assert (found.primary, found.previous) == (1, 0)
    assert found.shadows == {2: 1.0, 3: 0.5, 4: 1.0}
    with pytest.raises(Refused, match="model 'm' has no previous version to roll back to"):
        found.rolled_back()


def test_a_canary_that_is_a_shadow_too_stays_one_when_it_ends() -> None:
    found = SERVING.diverted(3, 0.05)
    assert (found.generation, found.primary, found.canary, found.weight) == (6, 2, 3, 0.05)
    assert (found.role(3), found.shadows) == ("canary", SERVING.shadows)
    assert found.undiverted() == replace(SERVING, generation=7)


@pytest.mark.parametrize("version", [9, 77], ids=["idle", "unknown"])
def test_a_canary_that_is_no_shadow_is_idle_when_it_ends(version: int) -> None:
    found = SERVING.diverted(version, 1.0)
    assert (found.role(version), found.idle) == ("canary", SERVING.idle - {version})
    assert found.undiverted().idle == SERVING.idle | {version}
    assert found.diverted(3, 0.5).idle == SERVING.idle | {version}


def test_a_canary_that_is_mirrored_no_more_answers_on() -> None:
    found = SERVING.diverted(3, 0.05).unshadowed(3)
    assert (found.role(3), found.shadows, found.idle) == ("canary", {4: 1.0}, SERVING.idle)


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_weight_outside_its_range_is_refused_by_value(weight: float) -> None:
    with pytest.raises(InvalidRequest, match=r"model 'm': weight: expected a share in \(0, 1\], received"):
        SERVING.diverted(3, weight)


def test_the_primary_cannot_be_its_canary_and_without_one_none_ends() -> None:
    with pytest.raises(Refused, match="model 'm' version '2' is the primary and cannot be its canary"):
        SERVING.diverted(2, 0.5)
    with pytest.raises(NotFound, match="model 'm' has no canary"):
        SERVING.undiverted()


def test_a_delivery_ends_with_its_canary_or_when_somebody_changes_the_share_and_else_goes_on() -> None:
    found = SERVING.delivered(3, 0.05, Delivery(0, 5.0))
    for changed in (
        found.diverted(3, 0.5),
        found.undiverted(),
        found.promoted(3),
        found.promoted(4),
        found.rolled_back(),
    ):
        assert changed.delivery is None
    for kept in (
        found.shadowed(4, 0.5),
        found.unshadowed(3),
        found.discovered(frozenset({7})),
        found.vanished(frozenset({9})),
    ):
        assert kept.delivery == found.delivery
    assert found.assigned(2, {4: 1.0}, 3, 0.05).delivery == found.delivery


def test_another_primary_has_no_canary() -> None:
    found = SERVING.diverted(3, 0.05)
    assert (found.promoted(3).canary, found.promoted(3).role(3)) == (0, "primary")
    assert (found.promoted(4).canary, found.promoted(4).role(3)) == (0, "shadow")
    assert (found.rolled_back().canary, found.rolled_back().weight) == (0, 0.0)


def test_a_delivery_ends_with_the_old_primary_in_the_shadow_and_ready_to_come_back() -> None:
    found = SERVING.delivered(3, 0.5, Delivery(0, 5.0)).handed_over(60.0)
    assert (found.primary, found.previous, found.canary, found.watched) == (3, 2, 0, 60.0)
    assert (found.role(2), found.shadows, set(found.idle)) == ("previous", {4: 1.0, 2: 1.0}, {1, 9})
    assert found.shadowed(2, 0.1).previous == 2
    assert (found.unshadowed(2).previous, found.unshadowed(2).role(2)) == (2, "previous")
    assert found.promoted(4).shadows == {2: 1.0}
    assert found.promoted(4).idle == found.idle
    back = found.rolled_back()
    assert (back.primary, back.previous, back.shadows) == (2, 0, {4: 1.0, 3: 1.0})


def test_an_assignment_gives_changes_and_takes_a_canary_in_one_change() -> None:
    found = SERVING.assigned(2, SERVING.shadows, 3, 0.05)
    assert found == SERVING.diverted(3, 0.05)
    assert found.assigned(2, SERVING.shadows, 3, 0.05) is found
    assert found.assigned(2, SERVING.shadows, 3, 0.5).weight == 0.5
    assert found.assigned(2, SERVING.shadows) == replace(SERVING, generation=7)
    moved = found.assigned(3, {}, 4, 0.25)
    assert (moved.generation, moved.primary, moved.canary, moved.shadows) == (7, 3, 4, {})


def test_a_route_is_a_value_that_no_change_alters() -> None:
    before = Route("m", 5, 2, 1, {3: 0.5, 4: 1.0}, frozenset({9}))
    for change in (SERVING.promoted(3), SERVING.rolled_back(), SERVING.unshadowed(4), SERVING.shadowed(9, 1.0)):
        assert change != before
    assert before == SERVING


VERSIONS = st.integers(1, 6)


class RouteMachine(RuleBasedStateMachine):
    """Any changes in any order, the impossible ones included."""

    def __init__(self) -> None:
        super().__init__()
        self.route = Route("m")

    def change(self, after: Route) -> None:
        before, self.route = self.route, after
        assert after.model == "m"
        assert after.generation == before.generation + (0 if after is before else 1)

    @rule(versions=st.frozensets(VERSIONS))
    def discovered(self, versions: frozenset[int]) -> None:
        before = self.route
        self.change(before.discovered(versions))
        if before.primary:
            assert (self.route.primary, self.route.previous) == (before.primary, before.previous)
        for version in versions:
            # Whatever appears has a role, or was sent away by someone.
            assert self.route.role(version) or version in before.idle

    @rule(versions=st.frozensets(VERSIONS))
    def vanished(self, versions: frozenset[int]) -> None:
        before = self.route
        self.change(before.vanished(versions))
        assert (self.route.primary, self.route.previous) == (before.primary, before.previous)
        assert not versions & (self.route.shadows.keys() | self.route.idle)

    @precondition(lambda self: self.route.primary)
    @rule(version=VERSIONS, sample=st.floats(0.01, 1))
    def shadowed(self, version: int, sample: float) -> None:
        self.attempt(lambda route: route.shadowed(version, sample), version != self.route.primary)

    @precondition(lambda self: self.route.primary)
    @rule(version=VERSIONS)
    def unshadowed(self, version: int) -> None:
        self.attempt(lambda route: route.unshadowed(version), version in self.route.shadows)

    @precondition(lambda self: self.route.primary)
    @rule(version=VERSIONS, weight=st.floats(0.01, 1))
    def diverted(self, version: int, weight: float) -> None:
        if self.attempt(lambda route: route.diverted(version, weight), version != self.route.primary):
            assert (self.route.role(version), self.route.weight) == ("canary", weight)

    @precondition(lambda self: self.route.primary)
    @rule(version=VERSIONS, weight=st.floats(0.01, 1), step=st.integers(0, 3))
    def delivered(self, version: int, weight: float, step: int) -> None:
        delivery = Delivery(step, 5.0)
        if self.attempt(lambda route: route.delivered(version, weight, delivery), version != self.route.primary):
            assert (self.route.role(version), self.route.delivery) == ("canary", delivery)

    @precondition(lambda self: self.route.primary)
    @rule(paused=st.booleans())
    def paused(self, paused: bool) -> None:
        before = self.route.delivery
        possible = before is not None and before.paused != paused
        if self.attempt(lambda route: route.paused(paused), possible):
            assert before is not None
            assert self.route.delivery == Delivery(before.step, before.began, paused)

    @precondition(lambda self: self.route.primary)
    @rule()
    def undiverted(self) -> None:
        self.attempt(Route.undiverted, bool(self.route.canary))

    @invariant()
    def what_is_on_trial_has_a_beginning_of_its_own(self) -> None:
        assert bool(self.route.since) is bool(self.route.canary or self.route.watched)
        assert self.route.since <= self.route.generation

    @precondition(lambda self: self.route.primary)
    @rule(version=VERSIONS)
    def promoted(self, version: int) -> None:
        before = self.route
        if self.attempt(lambda route: route.promoted(version), version != before.primary):
            assert (self.route.primary, self.route.previous) == (version, before.primary)

    @precondition(lambda self: self.route.canary)
    @rule()
    def handed_over(self) -> None:
        before = self.route
        self.change(before.handed_over(9.0))
        assert (self.route.primary, self.route.previous, self.route.watched) == (before.canary, before.primary, 9.0)
        assert self.route.shadows[before.primary] == 1.0

    @precondition(lambda self: self.route.primary)
    @rule()
    def rolled_back(self) -> None:
        before = self.route
        if self.attempt(Route.rolled_back, bool(before.previous)):
            assert (self.route.primary, self.route.role(before.primary)) == (before.previous, "shadow")

    def attempt(self, change: Callable[[Route], Route], possible: bool) -> bool:
        try:
            after = change(self.route)
        except GnomonError:
            assert not possible
            return False
        assert possible
        self.change(after)
        assert after.primary
        return True

    @invariant()
    def no_version_has_two_roles(self) -> None:
        route = self.route
        roles = [route.primary or -1, *route.shadows, *route.idle]
        assert len(set(roles)) == len(roles)
        # After a delivery the old primary is watched and kept warm.
        assert route.previous not in {route.primary or -1, *route.idle}
        # A canary may be a shadow of what it does not answer, and nothing else.
        assert route.canary not in {route.primary, route.previous, *route.idle} - {0}
        assert bool(route.canary) == bool(route.weight)
        assert route.canary or route.delivery is None

    @invariant()
    def only_what_is_served_has_shadows_or_a_previous_version(self) -> None:
        assert self.route.primary or not (self.route.previous or self.route.shadows or self.route.idle)


TestRouteMachine = RouteMachine.TestCase
TestRouteMachine.settings = settings(max_examples=150, stateful_step_count=25)


def test_roles_are_assigned_in_one_step() -> None:
    route = Route("m", 5, primary=1, shadows={2: 1.0, 3: 0.5})
    assert route.assigned(1, {2: 1.0, 3: 0.5}) is route
    assert route.assigned(2, {3: 0.5, 4: 0.1}) == Route("m", 6, primary=2, previous=1, shadows={3: 0.5, 4: 0.1})
    # The old primary may be watched instead of kept warm.
    assert route.assigned(2, {1: 1.0}) == Route("m", 6, primary=2, shadows={1: 1.0}, idle=frozenset({3}))
    assert route.assigned(1, {}) == Route("m", 6, primary=1, idle=frozenset({2, 3}))
    with pytest.raises(Refused, match="is the primary and cannot shadow itself"):
        route.assigned(2, {2: 1.0})
    with pytest.raises(InvalidRequest, match=r"expected a share in \(0, 1\], received 2"):
        route.assigned(1, {2: 2.0})
