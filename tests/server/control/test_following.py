from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fleets
import pytest
from fleets import Rig, SharedStore

from gnomon_server.control.desired import Request
from gnomon_server.control.following import Following
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Shared
from gnomon_server.errors import NotReady, Refused

ME = Request("m", "me@here", "because")
FIRST = Route("m", 1, primary=1, shadows={2: 1.0})


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A server that has looked at its repository beside another one that decides."""
    fleets.use_child_program(monkeypatch)
    async with fleets.running(tmp_path, here={("m", 1), ("m", 2)}, kind=SharedStore) as running:
        yield running


def store(rig: Rig) -> SharedStore:
    assert isinstance(rig.store, SharedStore)
    return rig.store


async def following(rig: Rig, route: Route) -> None:
    """Has the other server store a route, and this one follow."""
    store(rig).elsewhere = {"m": route}
    await rig.operations.follow()


async def test_who_does_not_decide_waits_for_who_does(rig: Rig) -> None:
    assert rig.operations.routes == {}
    joined = asyncio.create_task(rig.operations.join())
    await asyncio.sleep(0)
    store(rig).elsewhere = {"m": FIRST}
    await joined
    assert rig.operations.routes == {"m": FIRST}
    await rig.settled()
    assert rig.fleet.frontend_state("m", 1).state == "ready"
    assert rig.store.audit() == []


class Teller:
    """A store that says what is new once, and takes its time to say it."""

    shared = True

    def __init__(self) -> None:
        self.news = [{"m": FIRST}]
        self.asked, self.told = threading.Event(), threading.Event()

    def sync(self) -> Shared:
        if not self.news:
            return Shared({}, leads=False)
        routes = self.news.pop()
        self.asked.set()
        assert self.told.wait(30)
        return Shared(routes, leads=False)


async def test_whoever_hears_meanwhile_hears_what_another_look_was_told() -> None:
    teller: Any = Teller()
    nobody: Any = None
    following = Following(teller, nobody)
    first = asyncio.create_task(following.hear())
    await asyncio.to_thread(teller.asked.wait, 30)
    second = asyncio.create_task(following.hear())
    # Time enough for one that does not wait.
    done, _ = await asyncio.wait({second}, timeout=0.2)
    assert not done
    teller.told.set()
    await second
    assert following.behind
    await first


async def test_who_takes_over_decides_itself(rig: Rig) -> None:
    store(rig).leads = True
    await rig.operations.join()
    assert rig.operations.routes == {"m": FIRST}
    assert [record.entry.action for record in rig.store.audit()] == ["discover"]


async def test_a_promotion_elsewhere_is_followed_once_its_primary_is_warm_here(rig: Rig) -> None:
    await following(rig, FIRST)
    await following(rig, FIRST.promoted(2))
    assert rig.operations.routes["m"].primary == 2
    assert rig.fleet.frontend_state("m", 1).state == rig.fleet.frontend_state("m", 2).state == "ready"
    assert rig.operations.switches["m", "promotion"] == 1
    await following(rig, FIRST.promoted(2).rolled_back())
    assert (rig.operations.routes["m"].primary, rig.operations.switches["m", "rollback"]) == (1, 1)
    assert [(one.version, one.replaced) for one in rig.operations.rollbacks] == [(1, 2)]


async def test_a_primary_that_cannot_be_loaded_here_leaves_what_answers_and_is_tried_again(rig: Rig) -> None:
    await following(rig, FIRST)
    rig.shelf.here |= {("m", 3)}
    rig.shelf.broken |= {("m", 3)}
    await rig.operations.look()
    for _ in range(2):
        with pytest.raises(Refused, match="model 'm' version '3' cannot be served: it is broken"):
            await following(rig, FIRST.shadowed(3, 1.0).promoted(3))
        assert rig.operations.routes == {"m": FIRST}
    assert rig.fleet.frontend_state("m", 1).state == "ready"


async def test_what_is_older_than_what_was_changed_here_is_passed_over(rig: Rig) -> None:
    store(rig).leads = True
    await rig.operations.join()
    changed = (await rig.operations.shadow(ME, 2, 0.5)).after
    await following(rig, FIRST)
    assert rig.operations.routes == {"m": changed}


async def test_a_change_begins_with_what_others_changed_and_is_refused_while_the_store_is_away(rig: Rig) -> None:
    await following(rig, FIRST)
    store(rig).elsewhere = {"m": FIRST.unshadowed(2)}
    with pytest.raises(Refused, match="version '2' is not a shadow and has no verdict"):
        await rig.operations.promote(ME, 2, force=False)
    store(rig).error = NotReady("the database cannot be reached")
    with pytest.raises(NotReady, match="cannot be reached"):
        await rig.operations.promote(ME, 2, force=True)
    assert rig.operations.routes == {"m": FIRST.unshadowed(2)}
