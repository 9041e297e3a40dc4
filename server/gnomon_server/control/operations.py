"""The changes of routes: checked, made ready in the fleet, stored with the audit in one transaction, then applied."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from gnomon_protos import control_pb2
from gnomon_protos.manifest_pb2 import Manifest
from gnomon_server.config import Policy, Settings
from gnomon_server.control import reports
from gnomon_server.control.alerts.watch import Rollback
from gnomon_server.control.audit import approval
from gnomon_server.control.audit.approval import Approvals
from gnomon_server.control.audit.envelope import Subject
from gnomon_server.control.audit.promotion import Promotion
from gnomon_server.control.audit.records import AuditEntry, AuditRecord
from gnomon_server.control.comparison import Comparison, Pair
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.plan import Key
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Store
from gnomon_server.control.store.tables import SERVER, utc_now
from gnomon_server.control.verdict import KEEP_WATCHING, PROMOTE, Verdict, verdict
from gnomon_server.errors import GnomonError, InvalidRequest, NotFound, NotReady, Refused, quoted
from gnomon_server.models import manifest as manifests
from gnomon_server.models.lifecycle import FAILED, READY
from gnomon_server.models.sources import Source
from gnomon_server.telemetry.conventions import PROMOTION, ROLLBACK, SWITCHES
from gnomon_server.wire.messages import VersionRef

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Seconds for all frontends to load a version or to switch to it.
LOAD_SECONDS: Final = 120.0
SWITCH_SECONDS: Final = 10.0
# Between looks at what another server decides, before this one serves.
JOIN_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Change:
    """A change of a route that was made."""

    before: Route
    after: Route
    # What a promotion rests on.
    evidence: control_pb2.Report | None = None


@dataclass(frozen=True)
class Request:
    """Who asks for a change, and why."""

    model: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Assignment:
    """The roles that a model shall have."""

    # Of the route that was looked at.
    generation: int
    primary: int
    # Version to share of mirrored requests.
    shadows: Mapping[int, float]


class Operations:
    """Desired state and its changes, one at a time; belongs to control's event loop."""

    def __init__(self, settings: Settings, store: Store, ledger: Ledger, fleet: Fleet, source: Source) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._fleet = fleet
        self._source = source
        self._lock = asyncio.Lock()
        self._routes = store.routes()
        self._refs: dict[Key, VersionRef] = {}
        # Versions whose digest was compared with the one that was seen first.
        self._remembered: set[Key] = set()
        # Models that a client has unloaded; a restart loads them again.
        self._unloaded: set[str] = set()
        self._digests = store.digests()
        # The newest routes that other servers stored, as far as they are not true here.
        self._elsewhere: dict[str, Route] = {}
        self._approvals = Approvals(settings.audit.approvers, store)
        # Whether this server decides what nobody asked for.
        self._leads = not store.shared
        # By model the newest, and how often each of conventions.SWITCHES happened here.
        self._rollbacks: dict[str, Rollback] = {}
        self._switches: Counter[tuple[str, str]] = Counter()

    @property
    def routes(self) -> Mapping[str, Route]:
        """The route of every model, by name."""
        return self._routes

    @property
    def leads(self) -> bool:
        """Whether this server decides what nobody asked for, where several share a store."""
        return self._leads

    @property
    def rollbacks(self) -> Sequence[Rollback]:
        """The newest rollback of each model since this server began."""
        return tuple(self._rollbacks.values())

    @property
    def switches(self) -> Mapping[tuple[str, str], int]:
        """How often the primary of a model changed since this server began, by model and one of SWITCHES."""
        return {(model, kind): self._switches[model, kind] for model in self._routes for kind in SWITCHES}

    def versions(self, model: str) -> list[int]:
        """Returns the versions of a model that are there, and those that have a role."""
        route = self._routes.get(model)
        roles = {route.primary, route.previous, *route.shadows} - {0} if route else set()
        return sorted(roles | {version for name, version in self._refs if name == model})

    async def look(self) -> None:
        """Looks at the repository and takes in what appeared or vanished; raises GnomonError if it cannot be read."""
        found = await asyncio.to_thread(self._source.versions)
        async with self._lock:
            seen = {(ref.model, ref.version): ref for ref in found}
            if self._leads:
                await self._discover(seen)
            if self._take_in(seen) or not self._fleet.planned:
                self._fleet.wish(self._wished, self._refs)

    async def follow(self) -> None:
        """Takes in what other servers changed that share the store; raises NotReady if it cannot be reached."""
        await self._hear()
        if self._elsewhere:
            async with self._lock:
                await self._adopt_all()

    async def join(self) -> None:
        """Takes its first look, and waits until every model that is there has a route, whoever decides it."""
        while True:
            if self._store.shared:
                await self.follow()
            await self.look()
            if all(model in self._routes for model, _ in self._refs):
                return
            await asyncio.sleep(JOIN_SECONDS)

    async def shadow(self, request: Request, version: int, sample: float) -> Change:
        """Mirrors a share of the model's requests to a version."""
        async with self._current():
            before = self._changeable(request.model)
            self._known(request.model, version)
            after = before.shadowed(version, sample)
            return await self._switch(before, after, AuditEntry(request.actor, "shadow", version, request.reason))

    async def unshadow(self, request: Request, version: int) -> Change:
        """Ends the mirroring to a version."""
        async with self._current():
            before = self._changeable(request.model)
            after = before.unshadowed(version)
            return await self._switch(before, after, AuditEntry(request.actor, "shadow", version, request.reason))

    async def promote(self, request: Request, version: int, force: bool) -> Change:
        """Makes a version the primary once it is warm in every frontend.

        Raises Refused without a favourable verdict unless forced, and where the version cannot be loaded.
        """
        async with self._current():
            before = self._changeable(request.model)
            self._known(request.model, version)
            return await self._promote(request, before, before.promoted(version), force)

    async def apply(self, request: Request, wanted: Assignment, force: bool) -> Change:
        """Gives a model the roles that are wanted, in one change, or in none where it has them.

        Raises Refused where the route was changed since it was looked at, and as `promote` where the primary changes.
        """
        async with self._current():
            before = self._changeable(request.model)
            if before.generation != wanted.generation:
                raise Refused(
                    f"model '{request.model}': the route was changed meanwhile: expected generation "
                    f"{wanted.generation}, found {before.generation}; look again and repeat the change"
                )
            for version in (wanted.primary, *wanted.shadows):
                self._known(request.model, version)
            after = before.assigned(wanted.primary, wanted.shadows)
            if after == before:
                return Change(before, before)
            if after.primary != before.primary:
                return await self._promote(request, before, after, force)
            return await self._switch(before, after, AuditEntry(request.actor, "apply", after.primary, request.reason))

    async def approve(self, model: str, version: int, envelope: str, reason: str) -> AuditRecord:
        """Keeps the approval of a promotion."""
        async with self._current():
            before = self.route(model)
            self._known(model, version)
            wanted = self._subjects(before, version)
            return await _finished(asyncio.to_thread(self._approvals.take, model, version, wanted, envelope, reason))

    async def rollback(self, request: Request) -> Change:
        """Makes the previous primary the primary again."""
        async with self._current():
            before = self._changeable(request.model)
            after = before.rolled_back()
            await self._warm(request.model, after.primary)
            entry = AuditEntry(request.actor, "rollback", after.primary, request.reason)
            return await self._switch(before, after, entry)

    async def load(self, request: Request) -> None:
        """Takes in what the repository has now, and waits until a model's primary answers in every frontend.

        Raises NotFound, or Refused if the primary cannot be loaded; one that has failed is tried anew.
        """
        await self.look()
        async with self._lock:
            route = self.route(request.model)
            if request.model in self._unloaded:
                await self._note(request, "load", route.primary)
                self._unloaded.discard(request.model)
            elif self._fleet.frontend_state(route.model, route.primary).state == FAILED:
                await self._without(route.model)
            generation = self._fleet.wish(self._wished, self._refs)
            await self._fleet.settled(generation, LOAD_SECONDS)
            state = self._fleet.frontend_state(route.model, route.primary)
            if state.state != READY:
                where = f"model '{route.model}' version '{route.primary}'"
                raise Refused(f"{where}: load failed: {state.reason or state.state}")

    async def unload(self, request: Request) -> None:
        """Has a model answer nothing and mirror nothing until it is loaded again; raises NotFound."""
        async with self._lock:
            route = self.route(request.model)
            if request.model not in self._unloaded:
                await self._note(request, "unload", route.primary)
                self._unloaded.add(request.model)
            await self._fleet.settled(self._fleet.wish(self._wished, self._refs), SWITCH_SECONDS)

    def report(self, model: str, shadow: int = 0) -> control_pb2.Report:
        """Returns how a shadow compares with the primary; 0 is the only shadow. Raises NotFound or InvalidRequest."""
        route = self.route(model)
        if not shadow:
            if len(route.shadows) != 1:
                shown = sorted(route.shadows) or "none"
                raise InvalidRequest(f"model '{model}': name one of its shadows: {shown}")
            (shadow,) = route.shadows
        comparison = self._ledger.totals(Pair(model, route.primary, shadow))
        if shadow not in route.shadows and comparison.since is None:
            shown = sorted(route.shadows)
            raise NotFound(f"model '{model}' version '{shadow}' is not a shadow: expected one of {shown}")
        policy = self._settings.policy_of(model)
        states = (self._fleet.state(model, route.primary), self._fleet.state(model, shadow))
        found = reports.report(comparison, route, policy, self._judge(comparison, policy), states)
        found.thinnings.extend(map(reports.thinning, self._fleet.guarding.thinnings(model)))
        return found

    def judge(self) -> None:
        """Looks at the evidence on every shadow, so that a decision is kept from the moment when it can be taken."""
        for route in self._routes.values():
            for shadow in route.shadows:
                comparison = self._ledger.totals(Pair(route.model, route.primary, shadow))
                self._judge(comparison, self._settings.policy_of(route.model))

    def _judge(self, comparison: Comparison, policy: Policy) -> Verdict:
        found = verdict(comparison.evidence, policy, datetime.now(UTC), comparison.decided)
        # Of several servers one keeps decisions; the others hear of them with its tallies.
        if found.decision != KEEP_WATCHING and self._leads:
            self._ledger.decide(comparison.pair, found)
        return found

    async def remember_digests(self) -> None:
        """Stores the digest of every version that is ready, so that it can never change unseen."""
        for key in self._refs.keys() - self._remembered:
            state = self._fleet.state(*key)
            if state.state == READY:
                first = await asyncio.to_thread(self._store.remember_digest, *key, state.digest)
                self._digests[key] = first
                self._remembered.add(key)
                if first != state.digest:
                    where = f"model '{key[0]}' version '{key[1]}'"
                    log.error(
                        "%s: has other bytes here (%s) than where it was seen first (%s)", where, state.digest, first
                    )

    def route(self, model: str) -> Route:
        """Returns the route of a model; raises NotFound."""
        if model not in self._routes:
            raise NotFound(f"model {quoted(model)} not found: expected one of {sorted(self._routes)}")
        return self._routes[model]

    def manifest(self, model: str, version: int) -> Manifest:
        """Returns what a version says of itself, without its golden sample; raises NotFound or LoadError."""
        self.route(model)
        self._known(model, version)
        message = manifests.message(Path(self._refs[model, version].folder))
        message.ClearField("golden_sample")
        return message

    def _approved(self, before: Route, version: int) -> Sequence[str]:
        """Returns the envelopes of the approvals; raises Refused if the policy asks for more."""
        needed = self._settings.policy_of(before.model).approvals
        if not needed:
            return ()
        return self._approvals.check(before.model, version, self._subjects(before, version), needed)

    def _subjects(self, before: Route, version: int) -> tuple[Subject, ...]:
        digests = (self._digest(before.model, number) for number in (version, before.primary))
        return approval.subjects(before.model, version, next(digests), before.primary, next(digests))

    def _digest(self, model: str, version: int) -> str:
        return self._fleet.state(model, version).digest or self._digests.get((model, version), "")

    def _promotion(
        self,
        request: Request,
        before: Route,
        version: int,
        force: bool,
        report: control_pb2.Report | None,
        approvals: Sequence[str],
    ) -> Promotion:
        return Promotion(
            model=before.model,
            version=version,
            digest=self._digest(before.model, version),
            primary=before.primary,
            primary_digest=self._digest(before.model, before.primary),
            actor=request.actor,
            reason=request.reason,
            forced=force,
            policy=self._settings.policy_of(before.model),
            report=report,
            time=utc_now(),
            approvals=approvals,
        )

    @property
    def _wished(self) -> Mapping[str, Route]:
        """The routes as the fleet is to make them true: an unloaded model has no roles."""
        return {name: Route(name) if name in self._unloaded else route for name, route in self._routes.items()}

    def _changeable(self, model: str) -> Route:
        """Returns the route of a model that is loaded; raises NotFound or Refused."""
        if model in self._unloaded:
            raise Refused(f"model '{model}' is unloaded: expected it to be loaded before its route is changed")
        return self.route(model)

    async def _without(self, model: str) -> None:
        """Has the fleet forget a model, so that it tries anew what had failed."""
        others = {name: route for name, route in self._wished.items() if name != model}
        await self._fleet.settled(self._fleet.wish(others, self._refs), SWITCH_SECONDS)

    async def _note(self, request: Request, action: str, version: int) -> None:
        """Writes down what leaves every role as it is."""
        entry = AuditEntry(request.actor, action, version, request.reason)
        await _finished(asyncio.to_thread(self._store.note, request.model, entry))

    def _known(self, model: str, version: int) -> None:
        if (model, version) not in self._refs:
            expected = [number for name, number in sorted(self._refs) if name == model]
            raise NotFound(f"model '{model}': version '{version}' not found: expected one of {expected}")

    def _check_evidence(self, request: Request, version: int, force: bool, evidence: control_pb2.Report | None) -> None:
        if force:
            if not request.reason:
                raise InvalidRequest("promote: force needs a reason, which the audit keeps")
            return
        where = f"model '{request.model}' version '{version}'"
        if evidence is None:
            raise Refused(f"{where} is not a shadow and has no verdict: shadow it first, or force with a reason")
        found = evidence.verdict
        if found.decision != PROMOTE:
            raise Refused(f"{where}: the verdict is '{found.decision}', {found.reason}")

    async def _promote(self, request: Request, before: Route, after: Route, force: bool) -> Change:
        """Has another primary take over, if the evidence on it and the approvals of it allow that."""
        version = after.primary
        report = self.report(request.model, version) if version in before.shadows else None
        self._check_evidence(request, version, force, report)
        approvals = await asyncio.to_thread(self._approved, before, version)
        await self._warm(request.model, version)
        report = self.report(request.model, version) if report is not None else None
        evidence = self._promotion(request, before, version, force, report, approvals).signed(self._store.signer)
        entry = AuditEntry(request.actor, "promote", version, request.reason, force, evidence)
        return replace(await self._switch(before, after, entry), evidence=report)

    async def _warm(self, model: str, version: int) -> None:
        """Has a version loaded in every frontend beside what serves; raises Refused if one cannot."""
        generation = self._fleet.wish(self._wished, self._refs, frozenset({(model, version)}))
        try:
            await self._fleet.settled(generation, LOAD_SECONDS)
            state = self._fleet.frontend_state(model, version)
            if state.state != READY:
                raise Refused(f"model '{model}' version '{version}' cannot be served: {state.reason or state.state}")
        except BaseException:
            # A caller who gives up cancels this, too.
            self._fleet.wish(self._wished, self._refs)
            raise

    async def _switch(self, before: Route, after: Route, entry: AuditEntry) -> Change:
        return await _finished(self._stored(before, after, entry))

    async def _stored(self, before: Route, after: Route, entry: AuditEntry) -> Change:
        try:
            await asyncio.to_thread(self._store.change, after, entry)
        except GnomonError:
            # What was made warm for this is not wanted any more.
            self._fleet.wish(self._wished, self._refs)
            raise
        await self._apply(after)
        return Change(before, after)

    @asynccontextmanager
    async def _current(self) -> AsyncIterator[None]:
        """Keeps others from changing routes here, and begins with what other servers changed."""
        async with self._lock:
            if self._store.shared:
                await self._hear()
                await self._adopt_all()
            yield

    async def _hear(self) -> None:
        shared = await asyncio.to_thread(self._store.sync)
        self._leads = shared.leads
        self._elsewhere |= shared.routes

    async def _adopt_all(self) -> None:
        failed: GnomonError | None = None
        for route in tuple(self._elsewhere.values()):
            try:
                await self._adopt(route)
            except GnomonError as error:
                # What answers here answers on; it is tried again, and the other models do not wait for it.
                failed = error
        if failed is not None:
            raise failed

    async def _adopt(self, route: Route) -> None:
        """Makes a route true that another server stored, once its primary can answer here too."""
        before = self._routes.get(route.model, Route(route.model))
        if route.generation <= before.generation:
            # It was read before this server itself changed it.
            del self._elsewhere[route.model]
            return
        if route.primary not in (before.primary, before.previous) and (route.model, route.primary) in self._refs:
            await self._warm(route.model, route.primary)
        await self._apply(route)
        del self._elsewhere[route.model]

    async def _apply(self, route: Route) -> None:
        before = self._routes.get(route.model, Route(route.model))
        if before.primary not in (0, route.primary):
            back = route.primary == before.previous and not route.previous
            self._switches[route.model, ROLLBACK if back else PROMOTION] += 1
            if back:
                self._rollbacks[route.model] = Rollback(route.model, route.primary, before.primary, datetime.now(UTC))
        self._routes = {**self._routes, route.model: route}
        generation = self._fleet.wish(self._wished, self._refs)
        try:
            await self._fleet.settled(generation, SWITCH_SECONDS)
        except NotReady as error:
            # It is stored and on its way: a frontend that is late finds it as its newest plan.
            log.warning("model '%s': %s", route.model, error)

    async def _discover(self, seen: Mapping[Key, VersionRef]) -> None:
        """Gives roles to the versions that are on disk now, and takes them from those that are gone."""
        for model in sorted({name for name, _ in seen} | self._routes.keys()):
            before = self._routes.get(model, Route(model))
            here = frozenset(version for name, version in seen if name == model)
            gone = (before.shadows.keys() | before.idle) - here
            await self._store_discovery(before, before.vanished(frozenset(gone)))
            before = self._routes.get(model, before)
            await self._store_discovery(before, before.discovered(here))

    async def _store_discovery(self, before: Route, after: Route) -> None:
        if after == before:
            return
        version = max(after.shadows, default=after.primary)
        entry = AuditEntry(SERVER, "discover", version, "the repository changed")
        await _finished(asyncio.to_thread(self._store.change, after, entry))
        self._routes = {**self._routes, after.model: after}

    def _take_in(self, seen: Mapping[Key, VersionRef]) -> bool:
        """Knows the versions that are on disk now; what answers stays, even if its folder has gone."""
        held = {
            (route.model, version) for route in self._routes.values() for version in (route.primary, route.previous)
        }
        kept = {key: ref for key, ref in self._refs.items() if key in held or key in seen}
        fresh = {
            key: msgspec.structs.replace(ref, digest=self._digests.get(key, ""))
            for key, ref in seen.items()
            if key not in kept
        }
        before, self._refs = self._refs, {**kept, **fresh}
        return self._refs != before


async def _finished(work: Awaitable[Result]) -> Result:
    """Returns what a work gives, and does not leave it half done when the caller gives up."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
