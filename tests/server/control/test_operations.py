from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import fleets
import psutil
import pytest
from fleets import Rig

from gnomon_server.control import snapshots
from gnomon_server.control.audit.promotion import report_of
from gnomon_server.control.canaries import Canaries
from gnomon_server.control.deliveries import Deliveries
from gnomon_server.control.desired import Request
from gnomon_server.control.operations import Assignment
from gnomon_server.control.routes import Route
from gnomon_server.control.trials import Trials
from gnomon_server.errors import InvalidRequest, NotFound, NotReady, Refused
from gnomon_server.settings import Settings
from gnomon_server.wire.counts import FeedCount, SourceCount
from gnomon_server.wire.histogram import DURATION_BOUNDS, Histogram
from gnomon_server.wire.labels import Label, Labelled
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.tallies import MetricCounts, Observed, PairTally

ME = Request("m", "me@here", "because")


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    fleets.use_child_program(monkeypatch)
    async with fleets.running(tmp_path, here={("m", 1), ("m", 2)}) as running:
        yield running


def agree(rig: Rig, count: int, nowhere: bool = False) -> None:
    """Has the shadow worker of m/2 compare this many requests, which all agree, or all disagree."""
    epoch = next(iter(rig.ledger._live))
    runs = Histogram(DURATION_BOUNDS)
    runs.add(0.001, count)
    zeros = (*[0.0] * 32, float(count)) if nowhere else (float(count), *[0.0] * 32)
    found = Observed("basis", requests=count, metrics=(MetricCounts("disagreement", zeros, zeros),))
    tally = PairTally("m", 1, 2, count, 0, 0, 0, 0, float(count), 0, (), runs.snapshot(), runs.snapshot(), found)
    source = SourceCount("m", 1, 2, "feed", count)
    rig.ledger.worker_reported(WorkerReport(epoch, (tally,), (source,), (), 0, (), 0))


async def selected(rig: Rig) -> None:
    await rig.until(lambda: rig.operations.judging.report("m", 2).outcomes.selected)


async def test_the_first_look_stores_the_route_and_says_who_made_it(rig: Rig) -> None:
    assert rig.operations.routes == {"m": Route("m", 1, 1, 0, {2: 1.0})}
    assert rig.store.routes() == rig.operations.routes
    (record,) = rig.store.audit()
    assert (record.entry.actor, record.entry.action, record.entry.version) == ("gnomon", "discover", 2)


async def test_a_new_version_becomes_a_shadow_and_a_vanished_one_is_forgotten(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3), ("other", 1)}
    await rig.operations.look()
    assert rig.operations.routes["m"].shadows == {2: 1.0, 3: 1.0}
    assert rig.operations.routes["other"].primary == 1
    assert rig.operations.versions("m") == [1, 2, 3]
    rig.shelf.here -= {("m", 2), ("m", 1)}
    await rig.operations.look()
    # The primary answers on, as it is loaded.
    assert rig.operations.routes["m"].primary == 1
    assert rig.operations.routes["m"].shadows == {3: 1.0}
    assert rig.operations.versions("m") == [1, 3]
    await rig.settled()


async def test_a_look_that_sees_nothing_new_changes_nothing(rig: Rig) -> None:
    for _ in range(3):
        await rig.operations.look()
    assert len(rig.store.audit()) == 1
    assert rig.operations.routes["m"].generation == 1


async def test_a_look_that_fails_is_taken_again(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3)}
    for place in (rig.shelf, rig.store):
        place.error = NotReady("the disk is away")
        with pytest.raises(NotReady, match="the disk is away"):
            await rig.operations.look()
        place.error = None
        assert rig.operations.routes["m"].shadows == {2: 1.0}
    await rig.operations.look()
    assert rig.operations.routes["m"].shadows == {2: 1.0, 3: 1.0}


async def test_a_promotion_without_a_favourable_verdict_is_refused_with_it(rig: Rig) -> None:
    with pytest.raises(Refused, match="model 'm' version '2': the verdict is 'keep watching', "):
        await rig.operations.promote(ME, 2, force=False)
    assert rig.operations.routes["m"].primary == 1


async def test_a_decision_is_kept_from_the_first_look_and_stands(rig: Rig) -> None:
    await selected(rig)
    agree(rig, 100)
    assert rig.ledger.comparisons()[0].decided is None
    rig.operations.judging.judge()
    (kept,) = rig.ledger.comparisons()
    assert kept.decided is not None
    assert kept.decided.decision == "promote"
    first = rig.operations.judging.report("m", 2).verdict
    assert first.decided
    rig.ledger.epoch_ended(next(iter(rig.ledger._live)))
    # A hundred thousand that were lost since would not be enough evidence any more.
    rig.ledger.frontend_reported([FeedCount("m", 1, 2, "another life", "feed", 100_000, 100_000, 0)])
    report = rig.operations.judging.report("m", 2)
    assert report.verdict == first
    assert report.agreement.low < 0.1


async def test_a_promotion_on_evidence_keeps_it(rig: Rig) -> None:
    await selected(rig)
    agree(rig, 500)
    change = await rig.operations.promote(ME, 2, force=False)
    assert (change.before.primary, change.after.primary, change.after.previous) == (1, 2, 1)
    assert change.evidence is not None
    assert change.evidence.outcomes.compared == 500
    record = rig.store.audit()[0]
    assert (record.entry.actor, record.entry.reason, record.entry.forced) == ("me@here", "because", False)
    assert report_of(record.entry.evidence) == change.evidence
    assert rig.fleet.frontend_state("m", 1).state == rig.fleet.frontend_state("m", 2).state == "ready"


async def test_force_needs_a_reason_and_is_recorded(rig: Rig) -> None:
    with pytest.raises(InvalidRequest, match="force needs a reason"):
        await rig.operations.promote(Request("m", "me", ""), 2, force=True)
    change = await rig.operations.promote(ME, 2, force=True)
    assert change.after.primary == 2
    assert rig.store.audit()[0].entry.forced


async def test_a_version_without_a_role_has_no_verdict_to_be_promoted_on(rig: Rig) -> None:
    await rig.operations.unshadow(ME, 2)
    with pytest.raises(Refused, match="version '2' is not a shadow and has no verdict: shadow it first"):
        await rig.operations.promote(ME, 2, force=False)
    assert (await rig.operations.promote(ME, 2, force=True)).evidence is None


async def test_a_version_with_other_tensors_is_refused_as_a_shadow_unless_forced(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3)}
    rig.shelf.other |= {("m", 3)}
    await rig.operations.look()
    await rig.settled()
    # A new version becomes a shadow by itself, and its status says why nothing of it can be compared.
    found = "does not fit version 1, its requests are not_comparable: input 'x': expected FP32 [-1, 3], received none"
    assert rig.operations.standing("m", 3).reason.startswith(found)
    assert rig.operations.judging.report("m", 3).shadow_reason.startswith(found)
    assert rig.operations.standing("m", 2).reason == ""
    await rig.operations.unshadow(ME, 3)
    before = rig.operations.routes["m"]
    with pytest.raises(Refused) as raised:
        await rig.operations.shadow(ME, 3, 0.5)
    for part in (
        "model 'm' version '3' does not fit its primary, version '1'",
        "[models.m.compare.align.3]",
        "input 'x': expected FP32 [-1, 3], received none",
        "input 'y': expected none, received FP32 [-1, 3], which is required",
        "output 'x': expected FP32 [-1, 3], received none",
    ):
        assert part in str(raised.value)
    wanted = Assignment(before.generation, 1, {2: 1.0, 3: 1.0})
    with pytest.raises(Refused, match="version '3' does not fit its primary"):
        await rig.operations.apply(ME, wanted, force=False)
    assert rig.operations.routes["m"] == before
    # What was loaded to be looked at has gone again.
    await rig.until(lambda: "shadow m/3" not in rig.fleet.pids)
    assert (await rig.operations.apply(ME, wanted, force=True)).after.shadows == {2: 1.0, 3: 1.0}
    assert rig.store.audit()[0].entry.forced
    await rig.operations.unshadow(ME, 3)
    assert (await rig.operations.shadow(ME, 3, 0.5, force=True)).after.shadows == {2: 1.0, 3: 0.5}
    assert rig.store.audit()[0].entry.forced
    # Force that was not needed is not held against anybody.
    await rig.operations.shadow(ME, 2, 0.5, force=True)
    assert not rig.store.audit()[0].entry.forced


async def test_shadows_are_measured_by_the_primary_that_they_get(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3), ("m", 4)}
    rig.shelf.other |= {("m", 3), ("m", 4)}
    await rig.operations.look()
    await rig.operations.unshadow(ME, 4)
    route = rig.operations.routes["m"]
    change = await rig.operations.apply(ME, Assignment(route.generation, 3, {4: 1.0}), force=True)
    assert (change.after.primary, change.after.shadows) == (3, {4: 1.0})
    await rig.settled()
    assert rig.operations.standing("m", 4).reason == ""


async def test_a_version_that_cannot_be_loaded_is_refused_as_a_shadow(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3)}
    rig.shelf.broken |= {("m", 3)}
    await rig.operations.look()
    await rig.operations.unshadow(ME, 3)
    with pytest.raises(Refused, match="version '3' cannot be loaded as a shadow"):
        await rig.operations.shadow(ME, 3, 1.0)
    assert (await rig.operations.shadow(ME, 3, 1.0, force=True)).after.shadows[3] == 1.0


async def test_a_version_that_cannot_load_is_refused_and_let_go_again(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3)}
    rig.shelf.broken |= {("m", 3)}
    await rig.operations.look()
    before, audit = rig.operations.routes["m"], rig.store.audit()
    with pytest.raises(Refused, match="model 'm' version '3' cannot be served: it is broken"):
        await rig.operations.promote(ME, 3, force=True)
    assert (rig.operations.routes["m"], rig.store.audit()) == (before, audit)
    await rig.until(lambda: rig.fleet.ready)


async def test_a_canary_answers_once_it_is_warm_and_its_shadow_goes_on(rig: Rig) -> None:
    change = await rig.operations.divert(ME, 2, 0.25)
    assert (change.before.canary, change.after.canary, change.after.weight) == (0, 2, 0.25)
    assert rig.operations.routes["m"].shadows == {2: 1.0}
    assert rig.fleet.frontend_state("m", 2).state == rig.fleet.standing("m", 2).state == "ready"
    (record, *_) = rig.store.audit()
    assert (record.entry.action, record.entry.version, record.after) == ("canary", 2, change.after)
    with pytest.raises(NotFound, match="model 'm' version '1' is not the canary: expected 2"):
        await rig.operations.undivert(ME, 1)
    assert (await rig.operations.undivert(ME)).after == replace(change.before, generation=3)


async def test_a_canary_that_cannot_load_or_is_not_there_is_refused_and_changes_nothing(rig: Rig) -> None:
    rig.shelf.here |= {("m", 3)}
    rig.shelf.broken |= {("m", 3)}
    await rig.operations.look()
    before, audit = rig.operations.routes["m"], rig.store.audit()
    with pytest.raises(Refused, match="model 'm' version '3' cannot be served: it is broken"):
        await rig.operations.divert(ME, 3, 0.25)
    with pytest.raises(Refused, match="model 'm' version '3' cannot be served: it is broken"):
        await rig.operations.apply(ME, Assignment(before.generation, 1, before.shadows, 3, 0.25), force=False)
    with pytest.raises(NotFound, match="model 'm': version '9' not found"):
        await rig.operations.divert(ME, 9, 0.25)
    assert (rig.operations.routes["m"], rig.store.audit()) == (before, audit)
    await rig.until(lambda: rig.fleet.ready)


async def test_a_canary_whose_verdict_as_a_shadow_is_reject_is_taken_back_and_not_let_in_again(rig: Rig) -> None:
    await selected(rig)
    canaries = Canaries(Settings(), rig.operations, Trials(rig.fleet, rig.operations))
    await rig.operations.divert(ME, 2, 0.25)
    await canaries.look()
    assert rig.operations.routes["m"].canary == 2
    agree(rig, 500, nowhere=True)
    await canaries.look()
    after = rig.operations.routes["m"]
    assert (after.primary, after.canary, after.shadows) == (1, 0, {2: 1.0})
    (record, *_) = rig.store.audit()
    assert (record.entry.actor, record.entry.action, record.entry.version) == ("gnomon", "rollback", 2)
    assert record.entry.reason.startswith("as a shadow, the verdict is 'reject', ")
    (told,) = rig.operations.rollbacks
    assert (told.model, told.version, told.replaced) == ("m", 1, 2)
    assert rig.operations.switches["m", "rollback"] == 1
    await canaries.look()
    assert len(rig.operations.rollbacks) == 1
    with pytest.raises(Refused, match="model 'm' version '2' cannot be a canary: the verdict is 'reject', "):
        await rig.operations.divert(ME, 2, 0.25)


STEPS = {"steps": [{"weight": 0.1, "seconds": 0.0}, {"weight": 0.5, "seconds": 0.0}], "stuck": 1e-9}


async def test_a_delivery_goes_through_its_steps_and_the_verdict_makes_the_primary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleets.use_child_program(monkeypatch)
    models = {"m": {"delivery": STEPS}}
    async with fleets.running(tmp_path, here={("m", 1), ("m", 2)}, models=models) as rig:
        deliveries = Deliveries(Settings(models=models), rig.operations, Trials(rig.fleet, rig.operations))
        begun = (await rig.operations.deliver(ME, 2)).after
        assert (begun.canary, begun.weight, begun.delivery and begun.delivery.step) == (2, 0.1, 0)
        with pytest.raises(Refused, match="model 'm' delivers version '2' already"):
            await rig.operations.deliver(ME, 2)
        assert deliveries.states == {("m", 2): "running"}
        await rig.operations.pause(ME, True)
        await deliveries.look()
        found = snapshots.snapshot(123, rig.fleet, rig.ledger, rig.operations, deliveries)
        assert (found.canaries, found.steps) == ({("m", 2): 0.1}, {("m", 2): 1})
        assert found.deliveries == {("m", 2): "paused"}
        assert rig.operations.routes["m"].weight == 0.1
        with pytest.raises(Refused, match="model 'm' is paused"):
            await rig.operations.pause(ME, True)
        await rig.operations.pause(ME, False)
        # What a server finds that begins anew.
        assert rig.store.routes() == rig.operations.routes
        await deliveries.look()
        assert (rig.operations.routes["m"].weight, rig.store.audit()[0].entry.actor) == (0.5, "gnomon")
        await deliveries.look()
        (stuck,) = deliveries.stuck
        assert (stuck.model, stuck.version, stuck.step) == ("m", 2, 2)
        assert stuck.reason.startswith("model 'm' version '2': the verdict is 'keep watching', ")
        assert deliveries.states == {("m", 2): "stuck"}
        progress = deliveries.progress()["m"]
        assert (progress.step, progress.steps, progress.state, progress.reason) == (2, 2, "stuck", stuck.reason)
        await selected(rig)
        agree(rig, 500)
        await deliveries.look()
        after = rig.operations.routes["m"]
        assert (after.primary, after.previous, after.canary, after.delivery) == (2, 1, 0, None)
        await deliveries.look()
        assert (deliveries.stuck, deliveries.states, deliveries.progress()) == ((), {}, {})
        assert rig.store.audit()[0].entry.action == "promote"


async def test_without_steps_or_a_delivery_there_is_nothing_to_do(rig: Rig) -> None:
    with pytest.raises(Refused, match="model 'm' has no steps to deliver by"):
        await rig.operations.deliver(ME, 2)
    for change in (rig.operations.deliver_on(ME), rig.operations.pause(ME, True)):
        with pytest.raises(Refused, match="model 'm' delivers no version"):
            await change


async def test_a_change_that_cannot_be_stored_is_not_made(rig: Rig) -> None:
    rig.store.error = NotReady("the disk is full")
    for change in (
        rig.operations.promote(ME, 2, force=True),
        rig.operations.shadow(ME, 2, 0.5),
        rig.operations.unshadow(ME, 2),
    ):
        with pytest.raises(NotReady, match="the disk is full"):
            await change
    assert rig.operations.routes == rig.store.routes() == {"m": Route("m", 1, 1, 0, {2: 1.0})}
    # Nor is the version kept warm for which nobody has a use now.
    await rig.until(lambda: rig.fleet.ready)
    assert [state.version for state in rig.fleet.frontends._acks[rig.fleet.frontends.all[0]].versions] == [1]


async def test_a_caller_who_gives_up_leaves_nothing_half_done(rig: Rig) -> None:
    frontend = psutil.Process(rig.fleet.pids["frontend-0"])
    frontend.suspend()
    promotion = asyncio.create_task(rig.operations.promote(ME, 2, force=True))
    await asyncio.sleep(0)
    promotion.cancel()
    with pytest.raises(asyncio.CancelledError):
        await promotion
    frontend.resume()
    assert rig.operations.routes["m"].primary == 1
    # The lock is free, too.
    assert (await rig.operations.promote(ME, 2, force=True)).after.primary == 2


async def test_changes_that_come_at_once_are_made_one_after_the_other(rig: Rig) -> None:
    changes = await asyncio.gather(*(rig.operations.shadow(ME, 2, share) for share in (0.1, 0.2, 0.3)))
    assert [change.after.generation for change in changes] == [2, 3, 4]
    assert rig.operations.routes["m"].shadows == {2: 0.3}
    assert [record.after.generation for record in rig.store.audit()] == [4, 3, 2, 1]


async def test_a_rollback_returns_to_the_previous_primary(rig: Rig) -> None:
    with pytest.raises(Refused, match="no previous version"):
        await rig.operations.rollback(ME)
    await rig.operations.promote(ME, 2, force=True)
    change = await rig.operations.rollback(ME)
    assert (change.after.primary, change.after.shadows) == (1, {2: 1.0})
    assert rig.store.audit()[0].entry.action == "rollback"


async def test_what_does_not_exist_is_named_with_what_does(rig: Rig) -> None:
    with pytest.raises(NotFound, match=r"model 'x' not found: expected one of \['m'\]"):
        await rig.operations.rollback(Request("x", "me", ""))
    for attempt in (rig.operations.promote(ME, 9, force=True), rig.operations.shadow(ME, 9, 1.0)):
        with pytest.raises(NotFound, match=r"model 'm': version '9' not found: expected one of \[1, 2\]"):
            await attempt
    with pytest.raises(NotFound, match=r"version '9' is not a shadow: expected one of \[2\]"):
        rig.operations.judging.report("m", 9)


async def test_a_report_needs_no_number_where_there_is_one_shadow(rig: Rig) -> None:
    assert rig.operations.judging.report("m").shadow == 2
    await rig.operations.unshadow(ME, 2)
    with pytest.raises(InvalidRequest, match="model 'm': name one of its shadows: none"):
        rig.operations.judging.report("m")


async def test_the_digest_of_a_version_is_remembered_when_it_is_first_ready(rig: Rig) -> None:
    await rig.operations.remember_digests()
    assert rig.store.digests() == {("m", 1): "sha256:1", ("m", 2): "sha256:2"}
    rig.shelf.here |= {("m", 3)}
    rig.shelf.broken |= {("m", 3)}
    await rig.operations.look()
    await rig.settled()
    await rig.operations.remember_digests()
    assert ("m", 3) not in rig.store.digests()


async def test_a_snapshot_has_every_outcome_state_and_verdict(rig: Rig) -> None:
    await selected(rig)
    agree(rig, 500)
    deliveries = Deliveries(Settings(), rig.operations, Trials(rig.fleet, rig.operations))
    found = snapshots.snapshot(123, rig.fleet, rig.ledger, rig.operations, deliveries)
    assert found.since_ns == 123 <= found.time_ns
    assert found.states == {("m", 1): "ready", ("m", 2): "ready"}
    assert found.verdicts == {("m", 2): "promote"}
    assert found.queue_depths == {("m", 2): 0}
    assert found.shares == {("m", 2): 1.0}
    (pair,) = found.pairs
    assert (pair.model, pair.shadow, pair.disagreeing) == ("m", 2, 0)
    assert pair.outcomes == {
        "compared": 500,
        "shadow_error": 0,
        "primary_error": 0,
        "timeout": 0,
        "dropped": 0,
        "not_comparable": 0,
    }
    assert 0 < pair.since_ns <= found.time_ns


async def test_an_unloaded_model_has_no_process_left_and_its_roles_wait_for_its_return(rig: Rig) -> None:
    before = rig.operations.routes["m"]
    await rig.operations.unload(ME)
    assert [rig.fleet.state("m", version).state for version in (1, 2)] == ["unloaded", "unloaded"]
    assert "shadow m/2" not in rig.fleet.pids
    # The server is as ready as before: nobody expects an answer of this model.
    assert rig.fleet.ready
    route = rig.operations.routes["m"]
    assert (route.primary, route.shadows) == (before.primary, before.shadows)
    await rig.operations.load(ME)
    assert rig.fleet.frontend_state("m", 1).state == "ready"
    await rig.settled()
    assert rig.fleet.state("m", 2).state == "ready"
    assert [(one.entry.actor, one.entry.action, one.entry.version) for one in rig.store.audit()[1::-1]] == [
        ("me@here", "unload", 1),
        ("me@here", "load", 1),
    ]


async def test_what_is_asked_for_twice_is_done_and_written_down_once(rig: Rig) -> None:
    for _ in range(2):
        await rig.operations.unload(ME)
    for _ in range(2):
        await rig.operations.load(ME)
    assert [record.entry.action for record in rig.store.audit()] == ["load", "unload", "discover"]


async def test_an_unloaded_model_keeps_its_route_and_takes_in_new_versions(rig: Rig) -> None:
    await rig.operations.unload(ME)
    for change in (
        rig.operations.promote(ME, 2, force=True),
        rig.operations.rollback(ME),
        rig.operations.shadow(ME, 2, 0.5),
        rig.operations.unshadow(ME, 2),
    ):
        with pytest.raises(Refused, match="model 'm' is unloaded: expected it to be loaded before"):
            await change
    rig.shelf.here |= {("m", 3)}
    await rig.operations.look()
    assert rig.operations.routes["m"].shadows == {2: 1.0, 3: 1.0}
    assert [rig.fleet.state("m", version).state for version in (1, 2, 3)] == ["unloaded"] * 3


async def test_to_load_takes_in_what_is_in_the_repository_now(rig: Rig) -> None:
    rig.shelf.here |= {("new", 4)}
    await rig.operations.load(Request("new", "me@here", ""))
    assert rig.fleet.frontend_state("new", 4).state == "ready"


async def test_a_model_that_cannot_be_loaded_says_why_and_is_tried_anew_each_time(rig: Rig) -> None:
    rig.shelf.here |= {("new", 4)}
    rig.shelf.broken |= {("new", 4)}
    for _ in range(2):
        with pytest.raises(Refused, match="model 'new' version '4': load failed: it is broken"):
            await rig.operations.load(Request("new", "me@here", ""))


@pytest.mark.parametrize("method", ["load", "unload"])
async def test_a_model_that_is_not_in_the_repository_is_neither_loaded_nor_unloaded(method: str, rig: Rig) -> None:
    with pytest.raises(NotFound, match="model 'nobody' not found"):
        await getattr(rig.operations, method)(Request("nobody", "me@here", ""))


async def test_labels_go_to_every_shadow_and_one_that_cannot_take_them_says_why(rig: Rig) -> None:
    rig.shelf.here.add(("m", 3))
    rig.shelf.broken.add(("m", 3))
    await rig.operations.look()
    await rig.settled()
    found = await rig.operations.judging.label("m", 0, [Label("a", ("1",)), Label("b", ("0",))])
    assert found.keys() == {2, 3}
    assert found[2] == Labelled(1, 2, 0, 0, 0, 0, ())
    assert isinstance(found[3], NotReady)
    assert "model 'm' version 3: the shadow is failed and takes no labels" in str(found[3])
    with pytest.raises(NotReady, match="version 3"):
        await rig.operations.judging.label("m", 3, [Label("a", ("1",))])
    with pytest.raises(NotFound, match="version '1' is not a shadow"):
        await rig.operations.judging.label("m", 1, [Label("a", ("1",))])


async def test_whoever_gives_labels_to_a_worker_that_dies_of_them_hears_of_it(rig: Rig) -> None:
    with pytest.raises(NotReady, match="shadow m/2 ended with status 0: send the labels again"):
        await rig.operations.judging.label("m", 2, [Label("fatal", ("1",))])
    await rig.settled()
    assert (await rig.operations.judging.label("m", 2, [Label("a", ("1",))]))[2] == Labelled(2, 1, 0, 0, 0, 0, ())


async def test_a_model_without_a_shadow_takes_no_labels(rig: Rig) -> None:
    await rig.operations.unshadow(ME, 2)
    with pytest.raises(Refused, match="model 'm' has no shadow"):
        await rig.operations.judging.label("m", 0, [Label("a", ("1",))])
