"""The control process's life: open the store, start the children, serve, flush, drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec

from gnomon_server.control import service
from gnomon_server.control.alerts.alarm import Alarm
from gnomon_server.control.alerts.webhook import Webhook
from gnomon_server.control.answers import Answers
from gnomon_server.control.deliveries import Deliveries
from gnomon_server.control.drift.lookout import Lookout
from gnomon_server.control.fleet import Fleet
from gnomon_server.control.ledger import Ledger
from gnomon_server.control.operations import Operations
from gnomon_server.control.outlook import Outlook
from gnomon_server.control.ports import SharedPort
from gnomon_server.control.program import step_back
from gnomon_server.control.relay import Relay
from gnomon_server.control.service import ControlService
from gnomon_server.control.storage import Storage
from gnomon_server.control.store import Store
from gnomon_server.control.store.choice import opened
from gnomon_server.control.trials import Trials
from gnomon_server.control.web import Web
from gnomon_server.errors import GnomonError, NotReady
from gnomon_server.models.sources import source
from gnomon_server.models.sources.remotes import WithRemotes
from gnomon_server.serving.transport import tls
from gnomon_server.settings import AlertSettings, Settings
from gnomon_server.telemetry import Snapshot, Telemetry

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 1.0
# Between looks at what other servers changed that share the store.
FOLLOW_SECONDS: Final = 0.25
# Between looks for servers that are lost.
FOLD_SECONDS: Final = 1.0
GUARD_SECONDS: Final = 1.0
CANARY_SECONDS: Final = 1.0
DRIFT_SECONDS: Final = 1.0
# Between looks for something that somebody should know of.
ALERT_SECONDS: Final = 1.0
START_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Addresses:
    """Where a server that is ready can be reached."""

    grpc: str
    http: str
    control: str


class Server:
    """One server: control itself and everything that it owns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._since_ns = time.time_ns()

    async def run(self, ready: Callable[[Addresses], None]) -> None:
        """Serves until SIGTERM or SIGINT; calls `ready` once every frontend answers.

        Raises GnomonError if it cannot begin.

        Ends in the reverse order: refuse, drain calls, drain the mirror, flush tallies, close, flush telemetry.
        """
        step_back()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            await self._start(stack, ready)
            await self._stop.wait()

    async def _start(self, stack: AsyncExitStack, ready: Callable[[Addresses], None]) -> None:
        settings = self._settings
        tls.configured(settings.tls)
        webhook = Webhook(settings.alerts)
        models = WithRemotes(source(settings.repository), settings)
        models.versions()
        port = SharedPort(settings.grpc)
        stack.callback(port.close)
        store = opened(settings)
        stack.callback(store.close)
        telemetry = Telemetry.from_environment(os.environ, version("gnomon"))
        stack.push_async_callback(asyncio.to_thread, telemetry.shutdown)
        ledger = Ledger.restore(store.tallies())
        # Children are told by their command line, which everybody on this machine can read: no passwords.
        children = msgspec.structs.replace(settings, grpc=port.address, store="", alerts=AlertSettings())
        fleet = Fleet(children, ledger, telemetry.record, store.thinnings(), store.shared)
        relay = Relay(store, ledger, fleet)
        operations = Operations(settings, store, ledger, fleet, models)
        lookout = Lookout(settings, store, fleet.windows, lambda: operations.routes, lambda: operations.refs)
        trials = Trials(fleet, operations, store.trials())
        flush = partial(_flush, store, relay, operations, fleet, lookout, trials)
        control = ControlService(operations, fleet, store, lookout)
        deliveries = Deliveries(settings, operations, trials)
        outlook = Outlook(self._since_ns, fleet, ledger, operations, control, deliveries, lookout)
        alarm = Alarm(settings.alerts, webhook, outlook.look, lambda: operations.leads)
        web = Web(
            outlook.view,
            outlook.snapshot,
            lambda: fleet.ready and not self._stop.is_set(),
            lambda: operations.storage.away,
        )
        stack.push_async_callback(_attempted, partial(flush, last=True))
        stack.push_async_callback(fleet.stop, settings.grace)
        # While the versions are still loaded: a stopped fleet knows no digests.
        stack.push_async_callback(_attempted, operations.remember_digests)
        stack.push_async_callback(web.stop)
        http_port = await web.start(settings.http)
        server, control_port = await service.serve(control, settings.control)
        stack.push_async_callback(server.stop, 1.0)
        telemetry.start(_threadsafe(asyncio.get_running_loop(), outlook.snapshot))
        fleet.start(Answers(operations, fleet).answer)
        await operations.join()
        await self._settle(fleet)
        # Each on its own: a look waits while a promotion loads a version, and a flush must not.
        stack.enter_context(_Task(_always(settings.poll, operations.look)))
        stack.enter_context(_Task(_always(GUARD_SECONDS, fleet.guarding.look)))
        stack.enter_context(_Task(_always(CANARY_SECONDS, deliveries.canaries.look)))
        stack.enter_context(_Task(_always(CANARY_SECONDS, deliveries.look)))
        stack.enter_context(_Task(_always(DRIFT_SECONDS, lookout.look)))
        # One that is shared is asked more often, as it is followed.
        stack.enter_context(
            _Task(_always(FLUSH_SECONDS, flush if store.shared else partial(_stored, operations.storage, flush)))
        )
        if store.shared:
            stack.enter_context(_Task(_always(FOLLOW_SECONDS, operations.follow)))
            stack.enter_context(_Task(_always(FOLD_SECONDS, lambda: asyncio.to_thread(store.fold))))
        if settings.alerts.webhook:
            stack.enter_context(_Task(webhook.run()))
            stack.enter_context(_Task(_always(ALERT_SECONDS, alarm.look)))
        if not self._stop.is_set():
            http, rpc = settings.http.rpartition(":")[0], settings.control.rpartition(":")[0]
            ready(Addresses(port.address, f"{http}:{http_port}", f"{rpc}:{control_port}"))

    async def _settle(self, fleet: Fleet) -> None:
        """Waits until the frontends have made the first plan true, or the server is told to stop."""
        stopped = asyncio.create_task(self._stop.wait())
        settled = asyncio.create_task(fleet.settled(1, START_SECONDS))
        await asyncio.wait({stopped, settled}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if settled.done():
            settled.result()
        else:
            settled.cancel()


class _Task:
    """A task that lives as long as the block that owns it."""

    def __init__(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.create_task(work)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._task.cancel()


async def _always(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Does something every so often, for ever; what fails is said once, and tried again."""
    said = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except GnomonError as error:
            if str(error) != said:
                log.error("%s", error)
            said = str(error)
        except Exception:
            # A defect in one round must not end the rounds after it.
            log.exception("a defect of the server")
        else:
            if said:
                log.warning("it works again: %s", said)
            said = ""


async def _attempted(work: Callable[[], Awaitable[None]]) -> None:
    """Does something at the end, where a store that is away must not keep the rest from ending."""
    try:
        await work()
    except GnomonError as error:
        log.error("%s", error)


async def _stored(storage: Storage, flush: Callable[[], Awaitable[None]]) -> None:
    """Stores what was counted, and remembers whether that can be done."""
    try:
        await flush()
    except NotReady as error:
        storage.asked(error)
        raise
    storage.asked()


async def _flush(
    store: Store,
    relay: Relay,
    operations: Operations,
    fleet: Fleet,
    lookout: Lookout,
    trials: Trials,
    last: bool = False,
) -> None:
    await operations.remember_digests()
    operations.judging.judge()
    await relay.flush(last)
    if thinnings := fleet.guarding.news():
        await asyncio.to_thread(store.save_thinnings, thinnings)
        fleet.guarding.told(thinnings)
    if (found := trials.news()) is not None:
        await asyncio.to_thread(store.save_trials, found)
        trials.told(found)
    await lookout.flush()
    await relay.hear()
    trials.counted_elsewhere(await asyncio.to_thread(store.trials_elsewhere))


def _threadsafe(loop: asyncio.AbstractEventLoop, collect: Callable[[], Snapshot]) -> Callable[[], Snapshot]:
    """Returns a function that collects on the loop, for the exporter's thread."""

    async def collected() -> Snapshot:
        return collect()

    return lambda: asyncio.run_coroutine_threadsafe(collected(), loop).result(timeout=10)
