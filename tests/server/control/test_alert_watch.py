from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import profiled
import pytest

from gnomon_protos import control_pb2
from gnomon_server.control.alerts.alarm import Alarm
from gnomon_server.control.alerts.watch import Alert, Firing, Look, Rollback, Stuck, Watch
from gnomon_server.control.alerts.webhook import Webhook
from gnomon_server.control.drift.findings import Judge
from gnomon_server.control.drift.windows import merged
from gnomon_server.settings import AlertSettings, DriftSettings

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = AlertSettings(drops=0.01, window=60.0, dead_after=30.0)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def report(
    decision: str = "keep watching", state: str = "ready", selected: int = 0, dropped: int = 0, shadow: int = 2
) -> control_pb2.Report:
    return control_pb2.Report(
        model="m",
        primary=1,
        shadow=shadow,
        outcomes=control_pb2.Outcomes(selected=selected, dropped=dropped),
        verdict=control_pb2.Verdict(decision=decision, reason="so it is"),
        shadow_state=state,
        shadow_reason="no memory" if state == "failed" else "",
    )


def look(seconds: float, *reports: control_pb2.Report, rollbacks: Sequence[Rollback] = ()) -> Look:
    return Look(at(seconds), reports, rollbacks)


def names(firing: Sequence[Firing]) -> list[tuple[str, bool]]:
    """The names of alerts, and whether each has ended."""
    return [(one.alert.name, one.until is not None) for one in firing]


def test_a_verdict_is_told_once_when_it_is_reached_and_once_when_it_is_gone() -> None:
    watch = Watch(SETTINGS)
    assert watch.look(look(0, report())) == []
    (told,) = watch.look(look(1, report("promote")))
    assert told == Firing(Alert("GnomonPromoteVerdict", "m", 2, "info", ""), at(1))
    assert told.alert.summary == "model 'm' version 2 in the shadow of version 1: the verdict is 'promote', so it is"
    assert watch.look(look(2, report("promote"))) == []
    assert watch.firing == [told]
    (ended,) = watch.look(look(3))
    assert (ended.since, ended.until) == (at(1), at(3))
    assert watch.firing == []


def test_a_delivery_that_is_stuck_is_told_with_its_step_and_reason() -> None:
    watch = Watch(SETTINGS)
    (told,) = watch.look(Look(at(0), (), (), (Stuck("m", 2, 3, "it waits"),)))
    assert told.alert == Alert("GnomonDeliveryStuck", "m", 2, "warning", "")
    assert told.alert.summary == "model 'm': the delivery of version 2 is stuck in step 3: it waits"
    assert names(watch.look(look(1))) == [("GnomonDeliveryStuck", True)]


def test_drift_is_told_while_the_last_window_has_it() -> None:
    def seen(seconds: float, counts: Sequence[int]) -> Look:
        judge = Judge(profiled.known(), DriftSettings(window=60.0))
        windows = judge.findings(merged([profiled.window(0, counts)]), 1e6)
        return Look(at(seconds), (), (), (), windows)

    watch = Watch(SETTINGS)
    assert watch.look(seen(0, profiled.EVEN)) == []
    (told,) = watch.look(seen(1, profiled.SHIFTED))
    assert told.alert == Alert("GnomonDrift", "m", 1, "warning", "")
    assert told.alert.summary.startswith("model 'm' version 1: 2 of 3 features and outputs drift in the 1,000 rows")
    assert watch.look(seen(2, profiled.SHIFTED)) == []
    assert names(watch.look(seen(3, profiled.EVEN))) == [("GnomonDrift", True)]


def test_a_verdict_that_turns_is_another_alert() -> None:
    watch = Watch(SETTINGS)
    watch.look(look(0, report("promote")))
    found = watch.look(look(1, report("reject")))
    assert names(found) == [("GnomonPromoteVerdict", True), ("GnomonRejectVerdict", False)]


@pytest.mark.parametrize(("state", "seconds"), [("failed", 0), ("loading", 30), ("unloaded", 30)])
def test_a_shadow_that_is_not_ready_for_long_or_has_failed_is_dead(state: str, seconds: int) -> None:
    watch = Watch(SETTINGS)
    for second in range(seconds):
        assert watch.look(look(second, report(state=state))) == []
    (told,) = watch.look(look(seconds, report(state=state)))
    assert told.alert.name == "GnomonShadowDead"
    assert state in told.alert.summary
    assert names(watch.look(look(seconds + 1, report()))) == [("GnomonShadowDead", True)]


def test_a_shadow_that_comes_back_in_time_was_never_dead() -> None:
    watch = Watch(SETTINGS)
    for second, state in ((0, "loading"), (29, "loading"), (30, "ready"), (31, "loading"), (59, "loading")):
        assert watch.look(look(second, report(state=state))) == []


def test_drops_are_told_while_their_share_of_the_window_is_over_the_limit() -> None:
    watch = Watch(SETTINGS)
    assert watch.look(look(0, report(selected=5000, dropped=4000))) == []
    # What was before is old news; ten of a thousand are as many as may be.
    assert watch.look(look(10, report(selected=6000, dropped=4010))) == []
    (told,) = watch.look(look(20, report(selected=6100, dropped=4030)))
    assert told.alert.name == "GnomonMirrorDrops"
    assert "2.7 % of 1,100 requests of the last 60 s were dropped" in told.alert.summary
    assert names(watch.look(look(90, report(selected=8000, dropped=4030)))) == [("GnomonMirrorDrops", True)]


def test_a_few_requests_are_no_share() -> None:
    watch = Watch(SETTINGS)
    watch.look(look(0, report()))
    assert watch.look(look(1, report(selected=99, dropped=99))) == []
    assert names(watch.look(look(2, report(selected=100, dropped=99)))) == [("GnomonMirrorDrops", False)]


def test_a_rollback_is_news_for_five_minutes() -> None:
    watch, rollback = Watch(SETTINGS), Rollback("m", 1, 2, at(0))
    (told,) = watch.look(look(1, rollbacks=[rollback]))
    assert (told.alert.name, told.alert.version, told.alert.severity) == ("GnomonRollback", 2, "critical")
    assert told.alert.summary == "model 'm': version 1 is back in the place of 2"
    assert watch.look(look(299, rollbacks=[rollback])) == []
    assert names(watch.look(look(300, rollbacks=[rollback]))) == [("GnomonRollback", True)]


class Collected(Webhook):
    """A webhook that keeps what it is given."""

    def __init__(self, settings: AlertSettings) -> None:
        super().__init__(settings)
        self.sent: list[list[tuple[str, bool]]] = []

    def send(self, alerts: Sequence[Firing]) -> None:
        self.sent.append(names(alerts))


async def test_of_several_servers_one_tells_and_its_successor_begins_with_what_is_so() -> None:
    webhook, leads = Collected(SETTINGS), [False]
    alarm = Alarm(SETTINGS, webhook, lambda: look(0, report("promote")), lambda: leads[0])
    await alarm.look()
    leads[0] = True
    await alarm.look()
    await alarm.look()
    leads[0] = False
    await alarm.look()
    leads[0] = True
    await alarm.look()
    begun = [("GnomonPromoteVerdict", False)]
    assert webhook.sent == [begun, [], begun]


async def test_alertmanager_is_told_again_and_again_what_is_so(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AlertSettings(format="alertmanager")
    webhook, time = Collected(settings), [100.0]
    monkeypatch.setattr("gnomon_server.control.alerts.alarm.time.monotonic", lambda: time[0])
    alarm = Alarm(settings, webhook, lambda: look(0, report("promote")), lambda: True)
    for moment in (100, 101, 159, 160):
        time[0] = moment
        await alarm.look()
    begun = [("GnomonPromoteVerdict", False)]
    assert webhook.sent == [begun, [], [], begun]
