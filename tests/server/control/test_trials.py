"""Trials: what counts towards a share, over the lives of a server and beside other servers."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from gnomon_server.control.routes import Delivery, Route
from gnomon_server.control.trial import Side, answered
from gnomon_server.control.trials import Trials
from gnomon_server.wire.counts import InferenceCount
from gnomon_server.wire.histogram import BATCH_BOUNDS, DURATION_BOUNDS, Histogram, empty
from gnomon_server.wire.messages import FrontendReport

SERVING = Route("m", 3, primary=1, shadows={2: 1.0})
STEP = SERVING.delivered(2, 0.1, Delivery(0, 5.0))


def counted(seconds: float, times: int, error: str = "", version: int = 2, role: str = "canary") -> InferenceCount:
    durations = Histogram(DURATION_BOUNDS)
    durations.add(seconds, times)
    return InferenceCount("m", version, role, error, durations.snapshot(), empty(DURATION_BOUNDS), empty(BATCH_BOUNDS))


@dataclass
class Counting:
    """Frontends that count as a test says, and the route that they follow."""

    route: Route
    answers: list[InferenceCount] = field(default_factory=list)

    @property
    def counts(self) -> FrontendReport:
        return FrontendReport((), tuple(self.answers), (), (), 0, 0)

    @property
    def routes(self) -> dict[str, Route]:
        return {"m": self.route}

    def canary(self, times: int, error: str = "") -> None:
        self.answers.append(counted(0.001, times, error))

    def primary(self, times: int, version: int = 1) -> None:
        self.answers.append(counted(0.001, times, version=version, role="primary"))


def sides(trials: Trials, route: Route) -> tuple[int, int, int]:
    """How many requests the primary and the canary answered, and on how many the canary failed."""
    trial = trials.of(route)
    canary = trial.by_canary.side(0.0)
    return trial.by_primary.side(0.0).requests, canary.requests, canary.failed


def test_what_a_client_brought_about_is_no_failure_and_slow_is_what_is_above_the_limit() -> None:
    counts = [
        counted(0.09, 5),
        counted(0.2, 3),
        counted(0.001, 2, "INTERNAL"),
        counted(0.3, 1, "DEADLINE_EXCEEDED"),
        counted(1.0, 7, "INVALID_ARGUMENT"),
        counted(1.0, 7, version=3),
        counted(1.0, 7, role="primary"),
    ]
    found = answered(counts, "m", 2, "canary")
    assert (found.side(0.1), found.side(0.0)) == (Side(11, 3, 4), Side(11, 3, 0))
    assert found.since(answered(counts[:2], "m", 2, "canary")).side(0.1) == Side(3, 3, 1)
    assert found.plus(found).side(0.1) == Side(22, 6, 8)


def test_each_step_begins_anew_even_with_the_share_of_the_one_before() -> None:
    rig = Counting(STEP)
    trials = Trials(rig, rig)
    rig.primary(90)
    rig.canary(10)
    assert sides(trials, rig.route) == (90, 10, 0)
    rig.route = rig.route.paused(True)
    rig.canary(1)
    assert sides(trials, rig.route) == (90, 11, 0)
    rig.route = rig.route.delivered(2, 0.1, Delivery(1, 9.0))
    assert sides(trials, rig.route) == (0, 0, 0)
    rig.canary(5, "INTERNAL")
    assert sides(trials, rig.route) == (0, 5, 5)
    # Who looked at the route before it changed decides nothing.
    assert sides(trials, STEP) == (0, 0, 0)


def test_a_canary_that_gets_the_same_share_again_begins_anew() -> None:
    rig = Counting(STEP)
    trials = Trials(rig, rig)
    rig.canary(10, "INTERNAL")
    stored = trials.news()
    assert stored is not None
    rig.route = rig.route.undiverted().diverted(2, 0.1)
    assert sides(trials, rig.route) == (0, 0, 0)
    again = Counting(rig.route)
    assert sides(Trials(again, again, stored), rig.route) == (0, 0, 0)


def test_a_server_that_dies_goes_on_from_what_it_stored() -> None:
    rig = Counting(STEP)
    trials = Trials(rig, rig)
    rig.primary(90)
    rig.canary(10, "INTERNAL")
    stored = trials.news()
    assert stored is not None
    trials.told(stored)
    assert trials.news() is None
    again = Counting(STEP)
    trials = Trials(again, again, stored)
    assert trials.news() is None
    again.canary(3)
    assert sides(trials, STEP) == (90, 13, 10)
    # The share had grown when it died, and nothing of that was stored.
    grown = Counting(STEP.delivered(2, 0.5, Delivery(1, 9.0)))
    trials = Trials(grown, grown, stored)
    grown.canary(4)
    assert sides(trials, grown.route) == (0, 4, 0)
    assert trials.of(grown.route).past.side(0.0).requests == 90


def test_what_the_old_primary_answered_is_known_after_the_handover_and_a_restart() -> None:
    rig = Counting(SERVING)
    trials = Trials(rig, rig)
    rig.primary(1000)
    rig.route = STEP
    assert sides(trials, STEP) == (0, 0, 0)
    rig.primary(90)
    stored = trials.news()
    assert stored is not None
    again = Counting(STEP)
    trials = Trials(again, again, stored)
    again.primary(5)
    again.route = STEP.handed_over(inf)
    again.primary(7, version=2)
    trials.of(again.route)
    again.primary(4, version=2)
    found = trials.of(again.route)
    assert (found.before.side(0.0).requests, found.by_primary.side(0.0).requests) == (1095, 4)
    stored = trials.news()
    assert stored == [found]
    later = Counting(again.route)
    trials = Trials(later, later, stored)
    assert trials.of(later.route) == found
    later.route = later.route.rolled_back()
    assert trials.news() == []


def test_servers_that_share_a_store_add_up_what_they_counted_of_the_same_share() -> None:
    rig, other = Counting(STEP), Counting(STEP)
    trials, others = Trials(rig, rig), Trials(other, other)
    rig.canary(10)
    other.canary(20, "INTERNAL")
    stored = others.news()
    assert stored is not None
    for _ in range(2):
        trials.counted_elsewhere(stored)
        assert sides(trials, STEP) == (0, 30, 20)
    rig.route = STEP.delivered(2, 0.5, Delivery(1, 9.0))
    assert sides(trials, rig.route) == (0, 0, 0)
