"""The frontend's life: start, make plans true, report, drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final

from gnomon_server.models import servable
from gnomon_server.serving import health, reflection, service
from gnomon_server.serving.feed import Feed
from gnomon_server.serving.guard import Guard
from gnomon_server.serving.health import Health
from gnomon_server.serving.holdings import Holdings
from gnomon_server.serving.inferences import Inferences
from gnomon_server.serving.memory import Memory
from gnomon_server.serving.observation import Observation
from gnomon_server.serving.placing import Placing
from gnomon_server.serving.questions import Questions
from gnomon_server.serving.regions import Regions
from gnomon_server.serving.repository import Repository
from gnomon_server.serving.routing import ModelRoute, RouteTable
from gnomon_server.serving.service import Service
from gnomon_server.serving.split import Split
from gnomon_server.serving.streams import Streams
from gnomon_server.serving.transport import Call, tls
from gnomon_server.serving.transport.choice import transport
from gnomon_server.settings import Settings
from gnomon_server.telemetry.sampling import Sampler
from gnomon_server.wire.channel import Channel
from gnomon_server.wire.counts import FeedCount
from gnomon_server.wire.messages import Drained, FrontendAck, FrontendReport, ToChild
from gnomon_server.wire.plans import Drain, FrontendPlan, ModelPlan, ReportNow, ShadowFeed
from gnomon_server.wire.plans import Regions as RegionList
from gnomon_server.wire.questions import Answer

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 0.2


class Frontend:
    """One frontend process; everything in it belongs to one event loop, but for model runs on threads."""

    def __init__(self, channel: Channel[ToChild], settings: Settings, sampler: Sampler) -> None:
        self._channel = channel
        self._settings = settings
        self._observation = Observation(sampler)
        self._inferences = Inferences(self._observation, self._feeds_of, settings.max_in_flight)
        self._holdings = Holdings(lambda ref: servable.load(ref, settings.model(ref.model)))
        # By epoch: a share that changes is no reason to connect anew.
        self._feeds: dict[str, Feed] = {}
        self._closed_counts: list[FeedCount] = []
        self._plans: asyncio.Queue[FrontendPlan] = asyncio.Queue()
        self._planned = False
        # Of the newest report that control asked for.
        self._number = 0
        self._questions = Questions(channel.send)
        self._regions = Regions()
        accept = self._inferences.accept
        if settings.shared_memory:
            accept = Placing(accept, self._regions, settings.max_message_bytes).accept
        self._streams = Streams(accept, self._run_streamed, self._observation, lambda: self.table)
        services = (service.NAME, health.NAME)
        self._health = Health(services)
        methods = {
            **Service(self, accept, self._questions, settings).methods(),
            **self._streams.methods(service.NAME),
            **Repository(self._questions, settings.repository_control).methods(service.NAME),
            **Memory(self._questions, settings.shared_memory).methods(service.NAME),
            **self._health.methods(),
            **reflection.methods(services),
        }
        self._transport = transport(settings.transport)(
            Guard(self._observation).methods(methods),
            self._calls_ended,
            self._inferences.after_pass,
            settings.grpc,
            settings.max_message_bytes,
            tls.configured(settings.tls),
        )
        self._port = 0
        self.table: RouteTable = RouteTable()
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether every model answers and the server is not shutting down."""
        return self._planned and not self.draining and self.table.ready

    async def run(self) -> None:
        """Serves until control says drain or goes away; raises what ends one of its tasks before."""
        told = asyncio.create_task(self._listen_to_control())
        tasks = (told, asyncio.create_task(self._follow_plans()), asyncio.create_task(self._report_always()))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        await self._drain(told.result())

    async def _listen_to_control(self) -> float:
        """Returns the seconds that a drain may take: none if control has gone."""
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, FrontendPlan):
                self._plans.put_nowait(message)
            elif isinstance(message, Answer):
                self._questions.answered(message)
            elif isinstance(message, RegionList):
                self._regions.wish(message.regions)
            elif isinstance(message, ReportNow):
                self._number = message.number
                self._report()
            elif isinstance(message, Drain):
                return message.grace_seconds
        return 0.0

    async def _follow_plans(self) -> None:
        while True:
            plan = await self._plans.get()
            while not self._plans.empty():
                plan = self._plans.get_nowait()
            await self._make_true(plan)

    async def _make_true(self, plan: FrontendPlan) -> None:
        refs = frozenset(ref for model in plan.models for ref in model.versions)
        missing = self._holdings.missing(refs)
        self.table = self.table.awaiting(
            {model.name: frozenset(ref.version for ref in model.versions if ref in missing) for model in plan.models}
        )
        await self._holdings.wish(refs)
        wished = {target.epoch: target for model in plan.models for target in model.shadows}
        await self._connect(wished)
        self.table = RouteTable({model.name: self._route(model) for model in plan.models})
        self._planned = True
        self._holdings.keep(refs)
        self._close_feeds(wished)
        answering = {name: route.primary is not None for name, route in self.table.models.items()}
        self._health.set(self.ready, answering)
        if not self._port:
            # Not before: whoever comes while another frontend answers must not find this one empty.
            self._port = await self._transport.start()
        self._channel.send(FrontendAck(plan.generation, self._port, self._holdings.states()))

    def _feeds_of(self, model: str) -> tuple[Feed, ...]:
        return self.table.feeds(model)

    async def _connect(self, wished: Mapping[str, ShadowFeed]) -> None:
        for epoch in wished.keys() - self._feeds.keys():
            target = wished[epoch]
            feed = Feed(target, self._settings.mirror_of(target.model, target.version).feed_bytes)
            await feed.connect()
            self._feeds[epoch] = feed
        for epoch, target in wished.items():
            self._feeds[epoch].aim(target)

    def _close_feeds(self, wished: Mapping[str, ShadowFeed]) -> None:
        for epoch in self._feeds.keys() - wished.keys():
            feed = self._feeds.pop(epoch)
            feed.flush()
            feed.close()
            self._closed_counts += feed.counts()

    def _route(self, model: ModelPlan) -> ModelRoute:
        loaded = {ref.version: found for ref in model.versions if (found := self._holdings.get(ref))}
        feeds = tuple(self._feeds[target.epoch] for target in model.shadows)
        canary, key = loaded.get(model.canary), self._settings.model(model.name).canary.key
        split = Split(canary, model.weight, key) if canary is not None else None
        primary, named = loaded.get(model.primary), frozenset(model.named)
        return ModelRoute(model.name, primary, loaded, feeds, unloaded=not model.primary, split=split, named=named)

    def _run_streamed(self) -> None:
        self._inferences.after_pass()
        self._inferences.settle()

    def _calls_ended(self, ended: Sequence[tuple[Call, str]]) -> None:
        self._inferences.settle()
        self._observation.calls_ended(ended)

    async def _report_always(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            self._report()

    def _report(self) -> None:
        # Of calls that ended before their answers were there, nothing else tells.
        self._inferences.settle()
        feeds = [count for feed in self._feeds.values() for count in feed.counts()]
        self._channel.send(
            FrontendReport(
                calls=self._observation.calls(),
                inferences=self._observation.inferences(),
                feeds=(*self._closed_counts, *feeds),
                traces=self._observation.take_traces(),
                traces_dropped=self._observation.traces_dropped,
                in_flight=self._inferences.in_flight,
                number=self._number,
                sequences_evicted=self._inferences.mirror.sequences.evicted,
            )
        )
        # Counts are cumulative: what control has read of a closed feed, it keeps.
        self._closed_counts = []

    async def _drain(self, grace: float) -> None:
        """Refuses, answers what is in, hands the rest of the mirror over, reports."""
        self.draining = True
        self._health.end()
        self._streams.end()
        self._questions.close()
        await self._transport.drain(grace)
        self._inferences.close()
        self._inferences.settle()
        for feed in self._feeds.values():
            await feed.drain(grace)
        self._report()
        self._channel.send(Drained())
        await self._channel.flush()
        self._channel.close()
