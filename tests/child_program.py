"""A child that behaves: it speaks control's protocol and does what GNOMON_TEST_CHILD says, without any model.

As a frontend or a worker it calls a version ready, or failed where its folder's name contains "broken"; it takes and
gives the tensor x, or y where its folder's name contains "other". As a worker it says that every label is joined, and
ends at one for the request "fatal".
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gnomon_server.wire.channel import Channel, open_child
from gnomon_server.wire.counts import CallCount, FeedCount
from gnomon_server.wire.histogram import CALL_BOUNDS, Histogram
from gnomon_server.wire.labels import Labelled, Labels
from gnomon_server.wire.messages import Drained, FrontendAck, FrontendReport, ToChild, VersionState, WorkerAck
from gnomon_server.wire.plans import Drain, FrontendPlan, ReportNow, ShadowFeed, VersionRef, WorkerPlan
from gnomon_server.wire.signatures import Tensor, Tensors

NAME = "child_program"


async def main(descriptor: int, behaviour: str) -> None:
    """Follows plans until it is drained, or until control is gone."""
    channel = await open_child(descriptor)
    if behaviour == "dies":
        channel.send(WorkerAck(VersionState("said", 1, "ready", "before it died")))
        await channel.flush()
        return
    while (message := await channel.receive()) is not None:
        if isinstance(message, WorkerPlan):
            channel.send(WorkerAck(state(message.version)))
        elif isinstance(message, FrontendPlan):
            follow(channel, message)
        elif isinstance(message, ReportNow) and behaviour != "silent":
            channel.send(FrontendReport((), (), (), (), 0, 0, message.number))
        elif isinstance(message, Labels):
            if message.labels[0].id == "fatal":
                return
            channel.send(Labelled(message.number, len(message.labels), 0, 0, 0, 0, ()))
        elif isinstance(message, Drain) and behaviour != "stubborn":
            channel.send(Drained())
            await channel.flush()
            return


def follow(channel: Channel[ToChild], plan: FrontendPlan) -> None:
    """Makes a plan true, and counts one call and one selected request a shadow for each plan."""
    states = tuple(state(ref) for model in plan.models for ref in model.versions)
    channel.send(FrontendAck(plan.generation, 1, states))
    calls = Histogram(CALL_BOUNDS)
    calls.add(0.1)
    feeds = tuple(fed(feed, model.primary) for model in plan.models for feed in model.shadows)
    counts = (CallCount("Infer", "OK", calls.snapshot()),)
    channel.send(FrontendReport(counts, (), feeds, (), 0, 0))


def state(ref: VersionRef) -> VersionState:
    """Returns how a version stands: ready, with a digest, unless its folder says that it is broken."""
    if "broken" in ref.folder:
        return VersionState(ref.model, ref.version, "failed", "it is broken")
    tensors = (Tensor("y" if "other" in Path(ref.folder).parts[1] else "x", "FP32", (-1, 3)),)
    return VersionState(
        ref.model, ref.version, "ready", digest=f"sha256:{ref.version}", signature=Tensors(tensors, tensors)
    )


def fed(feed: ShadowFeed, primary: int) -> FeedCount:
    """Returns the count of one selected request."""
    return FeedCount(feed.model, primary, feed.version, feed.epoch, f"{os.getpid()}", 1, 0, 0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), os.environ.get("GNOMON_TEST_CHILD", "")))
