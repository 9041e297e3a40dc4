"""The judging of shadows: what is known of each beside its primary, and what follows from that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from gnomon_protos import control_pb2
from gnomon_server.control import labels, repetitions, reports
from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.control.desired import Desired
from gnomon_server.control.evidence import Evidence
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.following import Following
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.routes import Route
from gnomon_server.control.verdict import KEEP_WATCHING, REJECT, Verdict, verdict
from gnomon_server.errors import GnomonError, InvalidRequest, NotFound, Refused
from gnomon_server.settings import Policy, Settings
from gnomon_server.wire.labels import Label, Labelled


class Judging:
    """Looks at the ledger by the routes of now, and changes none; belongs to control's event loop."""

    def __init__(
        self, settings: Settings, ledger: Ledger, fleet: Fleet, desired: Desired, following: Following
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._fleet = fleet
        self._desired = desired
        self._following = following

    def report(self, model: str, shadow: int = 0) -> control_pb2.Report:
        """Returns how a shadow compares with the primary; 0 is the only shadow. Raises NotFound or InvalidRequest."""
        comparison = self._compared(model, shadow)
        route, pair = self._desired.route(model), comparison.pair
        policy, now = self._settings.policy_of(model), datetime.now(UTC)
        evidence, decided = self._judge(comparison, policy, now)
        states = (
            self._fleet.state(model, pair.primary),
            self._desired.explained(self._fleet.state(model, pair.shadow)),
        )
        found = reports.report(comparison, route, policy, decided, states)
        found.thinnings.extend(map(reports.thinning, self._fleet.guarding.thinnings(model)))
        segments = self._fleet.differences.segments(pair)
        if segments is not None:
            found.segments.CopyFrom(segments)
        known = labels.report(comparison.labels, evidence, policy, now)
        if known is not None:
            found.labels.CopyFrom(known)
        return found

    async def label(self, model: str, shadow: int, given: Sequence[Label]) -> dict[int, Labelled | GnomonError]:
        """Has the shadows of a model, or one of them, join labels; returns for each what came of it.

        Raises NotFound, Refused where there is no shadow, and what each of them raises where all do.
        """
        route = self._desired.route(model)
        if shadow and shadow not in route.shadows:
            raise NotFound(f"model '{model}' version '{shadow}' is not a shadow: expected {sorted(route.shadows)}")
        versions = [shadow] if shadow else sorted(route.shadows)
        if not versions:
            raise Refused(f"model '{model}' has no shadow, so that no label has two answers to be compared with")
        found = await asyncio.gather(*(self._label(model, version, given) for version in versions))
        errors = [one for one in found if isinstance(one, GnomonError)]
        if len(errors) == len(found):
            raise errors[0]
        return dict(zip(versions, found, strict=True))

    async def _label(self, model: str, version: int, given: Sequence[Label]) -> Labelled | GnomonError:
        try:
            found = await self._fleet.label(model, version, given)
        except GnomonError as error:
            return error
        return InvalidRequest(found.reasons[0]) if found.refused and found.refused == len(given) else found

    def divergent(self, model: str, shadow: int = 0, limit: int = 0) -> list[control_pb2.DivergentRequest]:
        """Returns requests on which a shadow disagrees, newest first; zeros and errors as in `report`."""
        return self._fleet.differences.requests(self._compared(model, shadow).pair, limit)

    def _compared(self, model: str, shadow: int) -> Comparison:
        """Returns what is known of a shadow beside the primary; 0 is the only shadow."""
        route = self._desired.route(model)
        if not shadow:
            if len(route.shadows) != 1:
                shown = sorted(route.shadows) or "none"
                raise InvalidRequest(f"model '{model}': name one of its shadows: {shown}")
            (shadow,) = route.shadows
        comparison = self._ledger.totals(Pair(model, route.primary, shadow))
        if shadow not in route.shadows and comparison.since is None:
            shown = sorted(route.shadows)
            raise NotFound(f"model '{model}' version '{shadow}' is not a shadow: expected one of {shown}")
        return comparison

    def judge(self) -> None:
        """Looks at the evidence on every shadow, so that a decision is kept from the moment when it can be taken."""
        for route in self._desired.routes.values():
            for shadow in route.shadows:
                self._verdict(self._ledger.totals(Pair(route.model, route.primary, shadow)))

    def rejected(self, route: Route, version: int) -> str:
        """Returns the verdict on a version of a route as a sentence, if it is a shadow and the verdict is `reject`."""
        if version not in route.shadows:
            return ""
        return _rejection(self._verdict(self._ledger.totals(Pair(route.model, route.primary, version))))

    def strayed(self, route: Route) -> str:
        """Returns how far a new primary is from the old one, its shadow, as a sentence if that is beyond the policy.

        Nothing where the old one fails or cannot be compared: that says nothing of the new one.
        """
        if route.previous not in route.shadows:
            return ""
        comparison = self._ledger.totals(Pair(route.model, route.primary, route.previous))
        outcomes = comparison.outcomes
        failed = outcomes.shadow_error or outcomes.timeout or outcomes.not_comparable
        return "" if failed or not outcomes.compared else _rejection(self._verdict(comparison))

    def verdict(self, model: str, shadow: int) -> Verdict:
        """Returns the verdict on a shadow, without the rest of its report; raises as `report`."""
        return self._verdict(self._compared(model, shadow))

    def _verdict(self, comparison: Comparison) -> Verdict:
        return self._judge(comparison, self._settings.policy_of(comparison.pair.model), datetime.now(UTC))[1]

    def _judge(self, comparison: Comparison, policy: Policy, now: datetime) -> tuple[Evidence, Verdict]:
        """Returns the evidence by which a policy judges, and its verdict, which is kept once it is a decision."""
        evidence = repetitions.net(comparison.evidence, comparison.repeats, policy)
        evidence = labels.judged(evidence, comparison.labels, policy, now)
        found = verdict(evidence, policy, now, comparison.decided)
        # Of several servers one keeps decisions; the others hear of them with its tallies.
        if found.decision != KEEP_WATCHING and self._following.leads:
            self._ledger.decide(comparison.pair, found)
        return evidence, found


def _rejection(found: Verdict) -> str:
    return f"the verdict is '{REJECT}', {found.reason}" if found.decision == REJECT else ""
