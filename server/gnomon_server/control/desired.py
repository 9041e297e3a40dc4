"""The desired state: the routes, the versions that are there, and the fleet that makes both true."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeVar

import msgspec

from gnomon_protos import control_pb2
from gnomon_server.control.alerts.watch import Rollback
from gnomon_server.control.audit.records import AuditEntry
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.plan import Key
from gnomon_server.control.routes import Route
from gnomon_server.control.store import Store
from gnomon_server.control.store.tables import SERVER
from gnomon_server.errors import GnomonError, NotFound, NotReady, Refused, quoted
from gnomon_server.models import fit
from gnomon_server.models.lifecycle import FAILED, READY
from gnomon_server.models.sources.remotes import is_remote
from gnomon_server.telemetry.conventions import PROMOTION, ROLLBACK, SWITCHES
from gnomon_server.wire.messages import VersionState
from gnomon_server.wire.plans import VersionRef

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Seconds for all frontends to load a version or to switch to it.
LOAD_SECONDS: Final = 120.0
SWITCH_SECONDS: Final = 10.0


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


class Desired:
    """Belongs to control's event loop; whoever changes it sees to it that nobody else does meanwhile."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self.routes: Mapping[str, Route] = store.routes()
        self.refs: dict[Key, VersionRef] = {}
        self._digests = store.digests()
        # Versions whose digest was compared with the one that was seen first.
        self._remembered: set[Key] = set()
        # Models that a client has unloaded; a restart loads them again.
        self._unloaded: set[str] = set()
        # By model the newest, and how often each of conventions.SWITCHES happened here.
        self._rollbacks: dict[str, Rollback] = {}
        self._switches: Counter[tuple[str, str]] = Counter()

    @property
    def rollbacks(self) -> Sequence[Rollback]:
        """The newest rollback of each model since this server began."""
        return tuple(self._rollbacks.values())

    @property
    def switches(self) -> Mapping[tuple[str, str], int]:
        """How often the primary of a model changed since this server began, by model and one of SWITCHES."""
        return {(model, kind): self._switches[model, kind] for model in self.routes for kind in SWITCHES}

    def versions(self, model: str) -> list[int]:
        """Returns the versions of a model that are there, and those that have a role."""
        route = self.routes.get(model)
        roles = {route.primary, route.canary, route.previous, *route.shadows} - {0} if route else set()
        return sorted(roles | {version for name, version in self.refs if name == model})

    def route(self, model: str) -> Route:
        """Returns the route of a model; raises NotFound."""
        if model not in self.routes:
            known = f"expected one of {sorted(self.routes)}" if self.routes else "there is no model yet"
            raise NotFound(f"model {quoted(model)} not found: {known}")
        return self.routes[model]

    def changeable(self, model: str) -> Route:
        """Returns the route of a model that is loaded; raises NotFound or Refused."""
        if model in self._unloaded:
            raise Refused(f"model '{model}' is unloaded: expected it to be loaded before its route is changed")
        return self.route(model)

    def check_known(self, model: str, *versions: int) -> None:
        """Raises NotFound for a version that is not in the repository."""
        for version in versions:
            if (model, version) not in self.refs:
                expected = [number for name, number in sorted(self.refs) if name == model]
                raise NotFound(f"model '{model}': version '{version}' not found: expected one of {expected}")

    def digest(self, model: str, version: int) -> str:
        """Returns the digest of a version, empty before it was ever loaded."""
        return self._fleet.state(model, version).digest or self._digests.get((model, version), "")

    def explained(self, state: VersionState) -> VersionState:
        """Returns how a version stands; of a shadow that does not fit its primary, the reason says in what."""
        route = self.routes.get(state.model)
        if route is None or state.version not in route.shadows or state.reason:
            return state
        found = self.differences(route, state.version)
        if not found:
            return state
        reason = f"does not fit version {route.primary}, its requests are not_comparable: {'; '.join(found)}"
        return msgspec.structs.replace(state, reason=reason)

    def differences(self, route: Route, shadow: int) -> Sequence[str]:
        """Returns in what a version differs from the primary of a route; nothing while one of them is not loaded."""
        expected = self._fleet.frontend_state(route.model, route.primary).signature
        received = self._fleet.state(route.model, shadow).signature
        return fit.differences(expected, received) if expected is not None and received is not None else ()

    def wish(self) -> None:
        """Has the fleet begin to make the routes true."""
        self._fleet.wish(self._wished, self.refs)

    async def warm(self, model: str, *versions: int, canary: int = 0) -> None:
        """Has versions, and a canary of the first, loaded in every frontend beside what serves.

        Raises Refused if one cannot be, or if the canary has other tensors: requests would fail that were well.
        """
        versions = (*versions, *({canary} - {0, *versions}))
        for version in versions:
            if (ref := self.refs.get((model, version))) is not None and is_remote(ref):
                where = f"model '{model}' version '{version}' runs elsewhere and answers no user of this server"
                raise Refused(f"{where}: put it into the repository under a number of its own, and promote that")
        generation = self._fleet.wish(self._wished, self.refs, frozenset((model, version) for version in versions))
        try:
            await self._fleet.settled(generation, LOAD_SECONDS)
            for version in versions:
                state = self._fleet.frontend_state(model, version)
                if state.state != READY:
                    reason = state.reason or state.state
                    raise Refused(f"model '{model}' version '{version}' cannot be served: {reason}")
            if canary:
                self._check_tensors(model, versions[0], canary)
        except BaseException:
            # A caller who gives up cancels this, too.
            self.wish()
            raise

    def _check_tensors(self, model: str, primary: int, canary: int) -> None:
        expected, received = (str(self._fleet.frontend_state(model, number).signature) for number in (primary, canary))
        if received != expected:
            raise Refused(
                f"model '{model}' version '{canary}' cannot be a canary of version {primary}: "
                f"expected {expected}, received {received}"
            )

    async def switch(self, before: Route, after: Route, entry: AuditEntry) -> Change:
        """Stores a route with the audit, and makes it true; once it has begun it ends, even if the caller gives up.

        Raises GnomonError where it cannot be stored; nothing has changed then.
        """
        return await finished(self._switched(before, after, entry))

    async def _switched(self, before: Route, after: Route, entry: AuditEntry) -> Change:
        try:
            await asyncio.to_thread(self._store.change, after, entry)
        except GnomonError:
            # What was made warm for this is not wanted any more.
            self.wish()
            raise
        await self.apply(after)
        return Change(before, after)

    async def apply(self, route: Route) -> None:
        """Makes a route true that is stored."""
        before = self.routes.get(route.model, Route(route.model))
        if before.primary not in (0, route.primary):
            back = route.primary == before.previous and not route.previous
            self._switches[route.model, ROLLBACK if back else PROMOTION] += 1
            if back:
                self._rollbacks[route.model] = Rollback(route.model, route.primary, before.primary, datetime.now(UTC))
        self.routes = {**self.routes, route.model: route}
        generation = self._fleet.wish(self._wished, self.refs)
        try:
            await self._fleet.settled(generation, SWITCH_SECONDS)
        except NotReady as error:
            # It is stored and on its way: a frontend that is late finds it as its newest plan.
            log.warning("model '%s': %s", route.model, error)

    def took_back(self, before: Route) -> None:
        """Remembers that the canary of a route failed, and that the primary answers in its place."""
        self._switches[before.model, ROLLBACK] += 1
        self._rollbacks[before.model] = Rollback(before.model, before.primary, before.canary, datetime.now(UTC))

    async def load(self, request: Request) -> None:
        """Waits until a model's primary answers in every frontend.

        Raises NotFound, or Refused if the primary cannot be loaded; one that has failed is tried anew.
        """
        route = self.route(request.model)
        if request.model in self._unloaded:
            await self._note(request, "load", route.primary)
            self._unloaded.discard(request.model)
        elif self._fleet.frontend_state(route.model, route.primary).state == FAILED:
            await self._without(route.model)
        generation = self._fleet.wish(self._wished, self.refs)
        await self._fleet.settled(generation, LOAD_SECONDS)
        state = self._fleet.frontend_state(route.model, route.primary)
        if state.state != READY:
            where = f"model '{route.model}' version '{route.primary}'"
            raise Refused(f"{where}: load failed: {state.reason or state.state}")

    async def unload(self, request: Request) -> None:
        """Has a model answer nothing and mirror nothing until it is loaded again; raises NotFound."""
        route = self.route(request.model)
        if request.model not in self._unloaded:
            await self._note(request, "unload", route.primary)
            self._unloaded.add(request.model)
        await self._fleet.settled(self._fleet.wish(self._wished, self.refs), SWITCH_SECONDS)

    async def discover(self, seen: Mapping[Key, VersionRef]) -> None:
        """Gives roles to the versions that are on disk now, and takes them from those that are gone."""
        for model in sorted({name for name, _ in seen} | self.routes.keys()):
            before = self.routes.get(model, Route(model))
            here = frozenset(version for name, version in seen if name == model)
            gone = (before.shadows.keys() | before.idle) - here
            await self._store_discovery(before, before.vanished(frozenset(gone)))
            # What runs elsewhere can be no primary: it waits until there is one.
            near = frozenset(key[1] for key, ref in seen.items() if key[0] == model and not is_remote(ref))
            for versions in (near, here):
                before = self.routes.get(model, before)
                if before.primary or versions <= near:
                    await self._store_discovery(before, before.discovered(versions))

    def take_in(self, seen: Mapping[Key, VersionRef]) -> bool:
        """Knows the versions that are on disk now; what answers stays, even if its folder has gone."""
        held = {
            (route.model, version)
            for route in self.routes.values()
            for version in (route.primary, route.canary, route.previous)
        }
        kept = {key: ref for key, ref in self.refs.items() if key in held or key in seen}
        fresh = {
            key: msgspec.structs.replace(ref, digest=self._digests.get(key, ""))
            for key, ref in seen.items()
            if key not in kept
        }
        before, self.refs = self.refs, {**kept, **fresh}
        return self.refs != before

    async def remember_digests(self) -> None:
        """Stores the digest of every version that is ready, so that it can never change unseen."""
        for key in self.refs.keys() - self._remembered:
            state = self._fleet.state(*key)
            if state.state == READY and state.digest:
                first = await asyncio.to_thread(self._store.remember_digest, *key, state.digest)
                self._digests[key] = first
                self._remembered.add(key)
                if first != state.digest:
                    where = f"model '{key[0]}' version '{key[1]}'"
                    log.error(
                        "%s: has other bytes here (%s) than where it was seen first (%s)", where, state.digest, first
                    )

    @property
    def _wished(self) -> Mapping[str, Route]:
        """The routes as the fleet is to make them true: an unloaded model has no roles."""
        return {name: Route(name) if name in self._unloaded else route for name, route in self.routes.items()}

    async def _without(self, model: str) -> None:
        """Has the fleet forget a model, so that it tries anew what had failed."""
        others = {name: route for name, route in self._wished.items() if name != model}
        await self._fleet.settled(self._fleet.wish(others, self.refs), SWITCH_SECONDS)

    async def _note(self, request: Request, action: str, version: int) -> None:
        """Writes down what leaves every role as it is."""
        entry = AuditEntry(request.actor, action, version, request.reason)
        await finished(asyncio.to_thread(self._store.note, request.model, entry))

    async def _store_discovery(self, before: Route, after: Route) -> None:
        if after == before:
            return
        version = max(after.shadows, default=after.primary)
        entry = AuditEntry(SERVER, "discover", version, "the repository changed")
        await finished(asyncio.to_thread(self._store.change, after, entry))
        self.routes = {**self.routes, after.model: after}


async def finished(work: Awaitable[Result]) -> Result:
    """Returns what a work gives, and does not leave it half done when the caller gives up."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
