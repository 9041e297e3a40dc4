from __future__ import annotations

import asyncio
from pathlib import Path

import fleets
import psutil
import pytest

from gnomon_server.control import frontends
from gnomon_server.control.comparison import Pair
from gnomon_server.control.routes import Route
from gnomon_server.errors import NotReady
from gnomon_server.wire.plans import VersionRef


@pytest.fixture(autouse=True)
def _children_without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    fleets.use_child_program(monkeypatch)


def calls(rig: fleets.Rig) -> int:
    return sum(sum(count.durations.counts) for count in rig.fleet.counts.calls)


async def test_a_fleet_is_ready_once_every_frontend_has_followed(tmp_path: Path) -> None:
    async with fleets.running(tmp_path, workers=2, here={("m", 1), ("m", 2)}) as rig:
        # The worker that is ready meanwhile makes another plan.
        await rig.until(lambda: rig.fleet.ready)
        assert sorted(rig.fleet.pids) == ["frontend-0", "frontend-1", "shadow m/2"]
        assert rig.fleet.frontend_state("m", 1).state == "ready"
        # A shadow is loaded in its worker and nowhere else.
        assert rig.fleet.frontend_state("m", 2).state == "loading"
        assert rig.fleet.state("m", 2).state == "ready"
        assert rig.fleet.state("m", 7).state == "unloaded"


async def test_a_frontend_that_dies_returns_with_the_newest_plan_and_its_counts_stay(tmp_path: Path) -> None:
    async with fleets.running(tmp_path, workers=2) as rig:
        await rig.until(lambda: calls(rig) == 2)
        pid = rig.fleet.pids["frontend-1"]
        psutil.Process(pid).kill()
        # Its next life begins after a pause.
        await rig.until(lambda: not rig.fleet.ready)
        await rig.until(lambda: rig.fleet.pids.get("frontend-1", pid) != pid)
        await rig.until(lambda: rig.fleet.ready and calls(rig) == 3)


async def test_frontends_come_and_go_and_the_counts_of_those_that_left_stay(tmp_path: Path) -> None:
    async with fleets.running(tmp_path) as rig:
        assert await rig.fleet.frontends.scale(3, 60) == 3
        assert rig.fleet.ready
        assert sorted(rig.fleet.pids) == ["frontend-0", "frontend-1", "frontend-2"]
        await rig.until(lambda: calls(rig) == 3)
        leaving = [psutil.Process(rig.fleet.pids[name]) for name in ("frontend-1", "frontend-2")]
        assert await rig.fleet.frontends.scale(1, 60) == 1
        assert [process.is_running() for process in leaving] == [False, False]
        assert sorted(rig.fleet.pids) == ["frontend-0"]
        assert calls(rig) == 3
        assert rig.fleet.ready


async def test_a_fleet_stays_ready_while_a_frontend_is_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleets.running(tmp_path) as rig:
        # What starts from now on never says that it answers.
        monkeypatch.setattr(frontends, "MODULE", "this.module.is.not.there")
        scaling = asyncio.create_task(rig.fleet.frontends.scale(2, 2))
        await asyncio.sleep(0)
        assert rig.fleet.ready
        with pytest.raises(NotReady, match="not every new frontend answered"):
            await scaling
        assert sorted(rig.fleet.pids) == ["frontend-0"]


async def test_equal_wishes_are_told_once(tmp_path: Path) -> None:
    async with fleets.running(tmp_path) as rig:
        routes, refs = rig.operations.routes, {("m", 1): VersionRef("m", 1, "/m/1")}
        generation = rig.fleet.wish(routes, refs)
        assert rig.fleet.wish(routes, refs) == generation
        assert rig.fleet.wish(routes, refs, frozenset({("m", 1)})) == generation
        assert rig.fleet.wish({"m": Route("m", 9, 1, 2)}, {**refs, ("m", 2): VersionRef("m", 2, "/m/2")}) > generation


async def test_a_version_to_be_warm_is_loaded_in_every_frontend_and_let_go_again(tmp_path: Path) -> None:
    async with fleets.running(tmp_path, workers=2) as rig:
        routes = rig.operations.routes
        refs = {("m", version): VersionRef("m", version, f"/m/{version}") for version in (1, 5)}
        generation = rig.fleet.wish(routes, refs, frozenset({("m", 5)}))
        assert rig.fleet.frontend_state("m", 5).state == "loading"
        await rig.fleet.settled(generation, 30)
        assert rig.fleet.frontend_state("m", 5).state == "ready"
        await rig.fleet.settled(rig.fleet.wish(routes, refs), 30)
        assert rig.fleet.frontend_state("m", 5).state == "unloaded"


async def test_waiting_for_a_frontend_that_does_not_follow_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleets.running(tmp_path) as rig:
        psutil.Process(rig.fleet.pids["frontend-0"]).suspend()
        generation = rig.fleet.wish({"m": Route("m", 2, 2)}, {("m", 2): VersionRef("m", 2, "/m/2")})
        with pytest.raises(NotReady, match=r"not every frontend followed within 0\.01 s"):
            await rig.fleet.settled(generation, 0.01)
        psutil.Process(rig.fleet.pids["frontend-0"]).resume()
        await rig.fleet.settled(generation, 30)


async def test_a_failed_version_says_why_and_the_fleet_is_not_ready(tmp_path: Path) -> None:
    async with fleets.running(tmp_path) as rig:
        refs = {("m", 3): VersionRef("m", 3, "/broken/3")}
        await rig.fleet.settled(rig.fleet.wish({"m": Route("m", 2, 3)}, refs), 30)
        state = rig.fleet.frontend_state("m", 3)
        assert (state.state, state.reason) == ("failed", "it is broken")
        assert not rig.fleet.ready


async def test_what_was_selected_for_a_worker_that_dies_is_dropped_and_its_next_life_counts_anew(
    tmp_path: Path,
) -> None:
    async with fleets.running(tmp_path, here={("m", 1), ("m", 2)}) as rig:
        pair = Pair("m", 1, 2)
        await rig.until(lambda: rig.ledger.totals(pair).outcomes.pending == 1)
        pid = rig.fleet.pids["shadow m/2"]
        psutil.Process(pid).kill()
        await rig.until(lambda: rig.ledger.totals(pair).outcomes.dropped == 1)
        assert rig.fleet.state("m", 2).state == "loading"
        # The frontend selects one request for each plan, and the worker's new life is a new plan.
        await rig.until(lambda: rig.ledger.totals(pair).outcomes.selected == 2)
        outcomes = rig.ledger.totals(pair).outcomes
        assert (outcomes.dropped, outcomes.pending) == (1, 1)


async def test_a_worker_whose_version_is_no_shadow_any_more_ends_and_leaves_nothing_pending(tmp_path: Path) -> None:
    async with fleets.running(tmp_path, here={("m", 1), ("m", 2)}) as rig:
        pair = Pair("m", 1, 2)
        await rig.until(lambda: rig.ledger.totals(pair).outcomes.pending == 1)
        process = psutil.Process(rig.fleet.pids["shadow m/2"])
        rig.fleet.wish({"m": Route("m", 2, 1)}, {("m", 1): VersionRef("m", 1, "/m/1")})
        assert "shadow m/2" not in rig.fleet.pids
        await rig.until(lambda: not process.is_running())
        await rig.until(lambda: rig.ledger.totals(pair).outcomes.dropped == 1)
        assert rig.ledger.totals(pair).outcomes.pending == 0


async def test_the_counts_of_now_are_those_after_every_frontend_has_reported_anew(tmp_path: Path) -> None:
    async with fleets.running(tmp_path, workers=2) as rig:
        await rig.until(lambda: calls(rig) == 2)
        # The program forgets its calls when it is asked.
        assert (await rig.fleet.frontends.counts_of_now()).calls == ()


async def test_who_asks_for_counts_at_the_same_time_shares_a_round_of_reports(tmp_path: Path) -> None:
    async with fleets.running(tmp_path, workers=2) as rig:
        first = asyncio.create_task(rig.fleet.frontends.counts_of_now())
        await rig.until(lambda: rig.fleet.frontends._asked == 1)
        # The first round has begun, and cannot tell of what happens now.
        await asyncio.gather(*(rig.fleet.frontends.counts_of_now() for _ in range(50)), first)
        assert rig.fleet.frontends._asked == 2


async def test_a_frontend_that_does_not_report_counts_as_it_did_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gnomon_server.control.frontends.REPORT_SECONDS", 0.05)
    async with fleets.running(tmp_path, workers=2) as rig:
        await rig.until(lambda: calls(rig) == 2)
        psutil.Process(rig.fleet.pids["frontend-1"]).suspend()
        counts = await rig.fleet.frontends.counts_of_now()
        assert sum(sum(count.durations.counts) for count in counts.calls) == 1
        psutil.Process(rig.fleet.pids["frontend-1"]).resume()
