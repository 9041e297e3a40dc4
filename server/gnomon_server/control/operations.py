"""The changes of routes: checked, made ready in the fleet, stored with the audit in one transaction, then applied."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gnomon_protos.manifest_pb2 import Manifest
from gnomon_server.control.alerts.watch import Rollback
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.desired import Change, Desired, Request
from gnomon_server.control.fitting import Fitting
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.following import Following
from gnomon_server.control.grounds import Grounds
from gnomon_server.control.judging import Judging
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.routes import Delivery, Route
from gnomon_server.control.storage import Storage
from gnomon_server.control.store import Store
from gnomon_server.errors import NotFound, NotReady, Refused
from gnomon_server.models import manifest as manifests
from gnomon_server.models.sources import Source
from gnomon_server.settings import Settings
from gnomon_server.wire.messages import VersionState
from gnomon_server.wire.plans import VersionRef

# Between looks at what another server decides, before this one serves.
JOIN_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Assignment:
    """The roles that a model shall have."""

    # Of the route that was looked at.
    generation: int
    primary: int
    # Version to share of mirrored requests.
    shadows: Mapping[int, float]
    # The version that answers a share of the requests; 0: none.
    canary: int = 0
    weight: float = 0.0


class Operations:
    """The changes of routes, one at a time; belongs to control's event loop."""

    def __init__(self, settings: Settings, store: Store, ledger: Ledger, fleet: Fleet, source: Source) -> None:
        self._settings = settings
        self._fleet = fleet
        self._source = source
        self._lock = asyncio.Lock()
        self._desired = Desired(store, fleet)
        self._following = Following(store, self._desired)
        self._fitting = Fitting(fleet, self._desired)
        self._grounds = Grounds(settings, store, self._desired)
        self.judging = Judging(settings, ledger, fleet, self._desired, self._following)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The route of every model, by name."""
        return self._desired.routes

    @property
    def refs(self) -> Mapping[tuple[str, int], VersionRef]:
        """Where every version lies that is there, by model and version."""
        return self._desired.refs

    @property
    def leads(self) -> bool:
        """Whether this server decides what nobody asked for, where several share a store."""
        return self._following.leads

    @property
    def storage(self) -> Storage:
        """Whether the store is reached; while it is away no route can be changed."""
        return self._following.storage

    @property
    def rollbacks(self) -> Sequence[Rollback]:
        """The newest rollback of each model since this server began."""
        return self._desired.rollbacks

    @property
    def switches(self) -> Mapping[tuple[str, str], int]:
        """How often the primary of a model changed since this server began, by model and one of SWITCHES."""
        return self._desired.switches

    def versions(self, model: str) -> list[int]:
        """Returns the versions of a model that are there, and those that have a role."""
        return self._desired.versions(model)

    def route(self, model: str) -> Route:
        """Returns the route of a model; raises NotFound."""
        return self._desired.route(model)

    def standing(self, model: str, version: int) -> VersionState:
        """Returns how a version stands; of a shadow that does not fit its primary, the reason says in what."""
        return self._desired.explained(self._fleet.standing(model, version))

    async def remember_digests(self) -> None:
        """Stores the digest of every version that is ready, so that it can never change unseen."""
        await self._desired.remember_digests()

    async def look(self) -> None:
        """Looks at the repository and takes in what appeared or vanished; raises GnomonError if it cannot be read."""
        found = await asyncio.to_thread(self._source.versions)
        async with self._lock:
            seen = {(ref.model, ref.version): ref for ref in found}
            if self._following.leads:
                await self._desired.discover(seen)
            if self._desired.take_in(seen) or not self._fleet.planned:
                self._desired.wish()

    async def follow(self) -> None:
        """Takes in what other servers changed that share the store; raises NotReady if it cannot be reached."""
        await self._following.hear()
        if self._following.behind:
            async with self._lock:
                await self._following.adopt()

    async def join(self) -> None:
        """Takes its first look, and waits until every model that is there has a route, whoever decides it.

        Where the store is away it begins with the routes that it remembers; raises NotReady where there are none.
        """
        while True:
            try:
                await self.follow()
            except NotReady:
                if not self._desired.routes:
                    raise
                await self.look()
                return
            await self.look()
            if all(model in self._desired.routes for model, _ in self._desired.refs):
                return
            await asyncio.sleep(JOIN_SECONDS)

    async def shadow(self, request: Request, version: int, sample: float, force: bool = False) -> Change:
        """Mirrors a share of the model's requests to a version.

        Raises Refused, unless forced, where its signature is not its primary's and nothing is declared about that.
        """
        async with self._current():
            self._desired.check_known(request.model, version)
            self._desired.changeable(request.model).shadowed(version, sample)
        async with self._fitting.tried(request.model, [version]), self._current():
            before = self._desired.changeable(request.model)
            self._desired.check_known(request.model, version)
            after = before.shadowed(version, sample)
            forced = self._fitting.check(after, [version], force)
            return await self._desired.switch(
                before, after, AuditEntry(request.actor, "shadow", version, request.reason, forced)
            )

    async def unshadow(self, request: Request, version: int) -> Change:
        """Ends the mirroring to a version."""
        async with self._current():
            before = self._desired.changeable(request.model)
            after = before.unshadowed(version)
            return await self._desired.switch(
                before, after, AuditEntry(request.actor, "shadow", version, request.reason)
            )

    async def divert(self, request: Request, version: int, weight: float) -> Change:
        """Has a version answer a share of the model's requests, as its canary, once it is warm in every frontend.

        Raises Refused where the version cannot be loaded, or would be taken back at once.
        """
        async with self._current():
            before = self._desired.changeable(request.model)
            self._desired.check_known(request.model, version)
            after = before.diverted(version, weight)
            self._check_judgement(before, version)
            await self._desired.warm(request.model, before.primary, canary=version)
            return await self._desired.switch(before, after, _entry(request, "canary", version))

    async def undivert(self, request: Request, version: int = 0) -> Change:
        """Has the primary answer every request again; raises NotFound where that version (0: any) is no canary."""
        async with self._current():
            before = self._desired.changeable(request.model)
            after = before.undiverted()
            if version not in (0, before.canary):
                raise NotFound(
                    f"model '{request.model}' version '{version}' is not the canary: expected {before.canary}"
                )
            return await self._desired.switch(before, after, _entry(request, "canary", before.canary))

    async def deliver(self, request: Request, version: int) -> Change:
        """Begins to make a version the primary step by step, with the first share of the settings.

        Raises Refused where the settings have no steps, a delivery is under way, or as `divert`.
        """
        async with self._current():
            before = self._desired.changeable(request.model)
            self._desired.check_known(request.model, version)
            steps = self._settings.model(request.model).delivery.steps
            if not steps:
                raise Refused(
                    f"model '{request.model}' has no steps to deliver by: expected [models.NAME.delivery] steps"
                )
            if before.delivery is not None:
                raise Refused(f"model '{request.model}' delivers version '{before.canary}' already")
            after = before.delivered(version, steps[0].weight, Delivery(0, time.time()))
            self._check_judgement(before, version)
            await self._desired.warm(request.model, before.primary, canary=version)
            return await self._desired.switch(before, after, _entry(request, "deliver", version))

    async def deliver_on(self, request: Request, generation: int = 0) -> Change:
        """Has a delivery take its next step, or, after the last, its version become the primary as by `promote`.

        Raises Refused where there is none, or another generation of the route than the one that was looked at.
        """
        async with self._current():
            before = self._desired.changeable(request.model)
            if before.delivery is None or generation not in (0, before.generation):
                raise Refused(f"model '{request.model}' delivers no version, or has moved on")
            settings, step = self._settings.model(request.model).delivery, before.delivery.step + 1
            steps = settings.steps
            if step >= len(steps):
                after = before.handed_over(time.time() + settings.watch)
                return await self._promote(request, before, after, force=False)
            delivery = Delivery(step, time.time())
            after = before.delivered(before.canary, steps[step].weight, delivery)
            return await self._desired.switch(before, after, _entry(request, "deliver", before.canary))

    async def pause(self, request: Request, paused: bool) -> Change:
        """Has a delivery wait with the share that it has, or go on."""
        async with self._current():
            before = self._desired.changeable(request.model)
            after = before.paused(paused)
            return await self._desired.switch(before, after, _entry(request, "deliver", before.canary))

    async def withdraw(self, request: Request, version: int) -> None:
        """Takes back a canary that has failed, unless it is none any more."""
        async with self._current():
            before = self._desired.changeable(request.model)
            if before.canary == version:
                await self._desired.switch(before, before.undiverted(), _entry(request, "rollback", version))
                self._desired.took_back(before)

    async def promote(self, request: Request, version: int, force: bool) -> Change:
        """Makes a version the primary once it is warm in every frontend.

        Raises Refused without a favourable verdict unless forced, and where the version cannot be loaded.
        """
        async with self._current():
            before = self._desired.changeable(request.model)
            self._desired.check_known(request.model, version)
            return await self._promote(request, before, before.promoted(version), force)

    async def apply(self, request: Request, wanted: Assignment, force: bool) -> Change:
        """Gives a model the roles that are wanted, in one change, or in none where it has them.

        Raises Refused where the route was changed since it was looked at, as `promote` where the primary changes, and
        as `shadow` where a version becomes a shadow.
        """
        async with self._current():
            before, after = self._assigned(request, wanted)
        new = after.shadows.keys() - before.shadows.keys()
        async with self._fitting.tried(request.model, new), self._current():
            before, after = self._assigned(request, wanted)
            if after == before:
                return Change(before, before)
            if after.primary != before.primary:
                return await self._promote(request, before, after, force)
            forced = self._fitting.check(after, new, force)
            if wanted.canary:
                self._check_judgement(before, after.canary)
                await self._desired.warm(request.model, after.primary, canary=after.canary)
            return await self._desired.switch(
                before, after, AuditEntry(request.actor, "apply", after.primary, request.reason, forced)
            )

    def _assigned(self, request: Request, wanted: Assignment) -> tuple[Route, Route]:
        """Returns the route before and after an assignment; raises Refused if it was changed since it was looked at."""
        before = self._desired.changeable(request.model)
        if before.generation != wanted.generation:
            raise Refused(
                f"model '{request.model}': the route was changed meanwhile: expected generation "
                f"{wanted.generation}, found {before.generation}; look again and repeat the change"
            )
        self._desired.check_known(request.model, wanted.primary, *wanted.shadows, *({wanted.canary} - {0}))
        return before, before.assigned(wanted.primary, wanted.shadows, wanted.canary, wanted.weight)

    async def approve(self, model: str, version: int, envelope: str, reason: str) -> AuditRecord:
        """Keeps the approval of a promotion."""
        async with self._current():
            before = self.route(model)
            self._desired.check_known(model, version)
            return await self._grounds.approve(before, version, envelope, reason)

    async def rollback(self, request: Request, generation: int = 0) -> Change:
        """Makes the previous primary the primary again; raises Refused where the route has another generation."""
        async with self._current():
            before = self._desired.changeable(request.model)
            if generation not in (0, before.generation):
                raise Refused(f"model '{request.model}': the route was changed meanwhile")
            after = before.rolled_back()
            await self._desired.warm(request.model, after.primary)
            return await self._desired.switch(before, after, _entry(request, "rollback", after.primary))

    async def load(self, request: Request) -> None:
        """Takes in what the repository has now, and waits until a model's primary answers in every frontend.

        Raises NotFound, or Refused if the primary cannot be loaded; one that has failed is tried anew.
        """
        await self.look()
        async with self._lock:
            await self._desired.load(request)

    async def unload(self, request: Request) -> None:
        """Has a model answer nothing and mirror nothing until it is loaded again; raises NotFound."""
        async with self._lock:
            await self._desired.unload(request)

    def manifest(self, model: str, version: int) -> Manifest:
        """Returns what a version says of itself, without its golden sample; raises NotFound or LoadError."""
        self.route(model)
        self._desired.check_known(model, version)
        message = manifests.message(Path(self._desired.refs[model, version].folder))
        message.ClearField("golden_sample")
        return message

    async def _promote(self, request: Request, before: Route, after: Route, force: bool) -> Change:
        """Has another primary take over, if the evidence on it and the approvals of it allow that."""
        version = after.primary
        report = self.judging.report(request.model, version) if version in before.shadows else None
        approvals = await self._grounds.check(request, before, version, report, force)
        await self._desired.warm(request.model, version, canary=after.canary)
        try:
            # By now it is known what the new primary takes and gives.
            self._fitting.check(after, after.shadows.keys() - before.shadows.keys(), force)
        except Refused:
            self._desired.wish()
            raise
        report = self.judging.report(request.model, version) if report is not None else None
        entry = self._grounds.entry(request, before, version, report, approvals, force)
        return replace(await self._desired.switch(before, after, entry), evidence=report)

    def _check_judgement(self, route: Route, version: int) -> None:
        """Raises Refused for a canary that would be taken back at the next look."""
        if self._settings.model(route.model).canary.rollback and (rejected := self.judging.rejected(route, version)):
            raise Refused(f"model '{route.model}' version '{version}' cannot be a canary: {rejected}")

    @asynccontextmanager
    async def _current(self) -> AsyncIterator[None]:
        """Keeps others from changing routes here, and begins with what other servers changed."""
        async with self._lock:
            await self._following.hear()
            await self._following.adopt()
            yield


def _entry(request: Request, action: str, version: int) -> AuditEntry:
    return AuditEntry(request.actor, action, version, request.reason)
