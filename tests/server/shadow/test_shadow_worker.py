from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from server.shadow.fakes import Adder, added, on_the_wire

from gnomon_protos import inference_pb2 as pb
from gnomon_server.errors import LoadError
from gnomon_server.settings import FeedbackSettings, MirrorSettings, RecordingSettings, Settings
from gnomon_server.shadow.pipeline import FORGETFUL
from gnomon_server.shadow.recorder import Recorder
from gnomon_server.shadow.recording import Head
from gnomon_server.shadow.trial import Shadow
from gnomon_server.shadow.worker import Worker
from gnomon_server.wire import hello
from gnomon_server.wire.channel import Channel, open_child, open_parent
from gnomon_server.wire.counts import SourceCount
from gnomon_server.wire.labels import Adopt, Label, Labelled, Labels
from gnomon_server.wire.messages import Adopted, Drained, FromChild, WorkerAck, WorkerReport
from gnomon_server.wire.plans import Drain, VersionRef, WorkerPlan

SOURCE = "0123456789abcdef"


@pytest.fixture
def folder() -> Iterator[Path]:
    # The path of a Unix socket has room for about a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="gnomon-") as folder:
        yield Path(folder)


def plan_in(folder: Path) -> WorkerPlan:
    return WorkerPlan(VersionRef("adder", 2, str(folder)), str(folder / "mirror.sock"), "first life")


class Control:
    """Control's end of the channel, and the worker at the other one."""

    def __init__(self, channel: Channel[FromChild], worker: asyncio.Task[None]) -> None:
        self.channel = channel
        self.worker = worker

    async def acknowledged(self) -> WorkerAck:
        ack = await self.channel.receive()
        assert isinstance(ack, WorkerAck)
        return ack

    async def drained(self) -> WorkerReport | None:
        """Returns the last report before the worker said that it has drained."""
        last: WorkerReport | None = None
        while not isinstance(message := await self.channel.receive(), Drained):
            assert isinstance(message, WorkerReport)
            last = message
        await self.worker
        self.channel.close()
        return last


async def started(
    shadow: Shadow | LoadError,
    plan: WorkerPlan,
    recorder: Recorder | None = None,
    remembering: FeedbackSettings = FORGETFUL,
) -> Control:
    def load(ref: VersionRef) -> Shadow:
        assert ref == plan.version
        if isinstance(shadow, LoadError):
            raise shadow
        return shadow

    ours, theirs = socket.socketpair()
    channel = await open_parent(ours)
    channel_of_child = await open_child(theirs.detach())
    worker = Worker(channel_of_child, MirrorSettings(), load, lambda _: recorder, remembering=lambda _: remembering)
    control = Control(channel, asyncio.create_task(worker.run()))
    channel.send(plan)
    return control


async def answered(control: Control, number: int) -> tuple[WorkerReport, Labelled]:
    """Returns the answer to labels, and the last report before it."""
    report: WorkerReport | None = None
    while not isinstance(message := await control.channel.receive(), Labelled):
        assert isinstance(message, WorkerReport)
        report = message
    assert message.number == number
    assert report is not None
    return report, message


async def mirror(address: str, stream: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_unix_connection(address)
    writer.write(hello.encode(SOURCE) + stream)
    await writer.drain()
    return writer


async def test_whoever_hears_that_a_label_is_joined_has_heard_the_counts_before(folder: Path) -> None:
    """So that the death of the worker takes no label that was called joined."""
    beside = VersionRef("adder", 1, str(folder))
    plan = msgspec.structs.replace(plan_in(folder), primary=beside)
    control = await started(Adder(), plan, remembering=FeedbackSettings(scale=10.0))
    await control.acknowledged()
    # Before any request has come, the label waits for it.
    control.channel.send(Labels(1, (Label("r", ("3",)), Label("s", ("x",)))))
    report, found = await answered(control, 1)
    assert (found.waiting, found.refused) == (1, 1)
    assert found.reasons == ("id 's': model 'adder' output 'sum': expected a number, received 'x'",)
    assert (report.labels[0].primary, report.labels[0].tally.waiting, report.labels[0].tally.refused) == (1, 1, 1)
    one = added()
    writer = await mirror(plan.address, on_the_wire(msgspec.structs.replace(one, request=named(one.request, "r"))))
    for number in range(2, 1000):
        control.channel.send(Labels(number, (Label("r", ("3",)),)))
        report, found = await answered(control, number)
        assert report.labels[0].tally.joined + report.labels[0].tally.waiting == 1
        if report.labels[0].tally.joined:
            break
        await asyncio.sleep(0.01)
    assert report.labels[0].tally.joined == found.duplicate == 1
    # What another server passed on comes with its counts.
    control.channel.send(Adopt(7, (Label("r", ("3",)), Label("t", ("3",)))))
    while not isinstance(message := await control.channel.receive(), Adopted):
        assert message is not None
    assert (message.number, message.unknown) == (7, (Label("t", ("3",)),))
    assert message.report.labels[0].tally.duplicate == report.labels[0].tally.duplicate + 1
    writer.close()
    control.channel.send(Drain(60))
    last = await control.drained()
    assert last is not None
    assert last.labels[0].tally.joined == 1


def named(request: bytes, name: str) -> bytes:
    message = pb.ModelInferRequest.FromString(request)
    message.id = name
    return message.SerializeToString()


async def test_a_worker_acknowledges_compares_reports_and_drains(folder: Path) -> None:
    plan = plan_in(folder)
    control = await started(Adder(), plan)
    ack = await control.acknowledged()
    assert (ack.version.state, ack.version.digest) == ("ready", "sha256:adder")
    writer = await mirror(plan.address, b"".join(on_the_wire(added(wrong=i % 2)) for i in range(10)))
    reports: list[WorkerReport] = []
    while not reports or not reports[-1].pairs or reports[-1].pairs[0].compared < 10:
        message = await control.channel.receive()
        assert isinstance(message, WorkerReport)
        reports.append(message)
    assert {report.epoch for report in reports} == {"first life"}
    control.channel.send(Drain(60))
    last = await control.drained()
    writer.close()
    assert last is not None
    assert (last.pairs[0].compared, last.pairs[0].disagreeing, last.queue_depth) == (10, 5, 0)
    # Each trace once.
    assert sum(len(report.traces) for report in [*reports, last]) == 5


async def test_a_recording_that_cannot_be_written_ends_with_a_word_to_control_and_the_comparison_goes_on(
    folder: Path,
) -> None:
    (folder / "file").touch()
    recorder = Recorder(folder / "file" / "recording", RecordingSettings(True), Head("adder", 2, "sha256:adder", 1))
    plan = plan_in(folder)
    control = await started(Adder(), plan, recorder)
    assert (await control.acknowledged()).version.reason == ""
    writer = await mirror(plan.address, on_the_wire(added()))
    while not isinstance(message := await control.channel.receive(), WorkerAck):
        pass
    assert message.version.state == "ready"
    assert message.version.reason == f"recording to {folder}/file/recording ended: Not a directory"
    control.channel.send(Drain(60))
    last = await control.drained()
    writer.close()
    assert last is not None
    assert last.pairs[0].compared == 1


async def test_what_was_written_before_a_drain_is_still_compared(folder: Path) -> None:
    plan = plan_in(folder)
    control = await started(Adder(), plan)
    await control.acknowledged()
    writer = await mirror(plan.address, b"".join(on_the_wire(added()) for _ in range(500)))
    control.channel.send(Drain(60))
    last = await control.drained()
    writer.close()
    assert last is not None
    assert last.pairs[0].compared == 500


async def test_of_a_frontend_that_died_the_worker_says_what_it_received_though_nothing_of_it_has_run_yet(
    folder: Path,
) -> None:
    gate = threading.Event()
    plan = plan_in(folder)
    control = await started(Adder(gate), plan)
    await control.acknowledged()
    dying = await mirror(plan.address, b"".join(on_the_wire(added(primary=primary)) for primary in (1, 1, 3)))
    dying.close()
    report: object = None
    while not isinstance(report, WorkerReport) or not report.ended:
        report = await control.channel.receive()
    assert report.ended == (SOURCE,)
    assert report.sources == (SourceCount("adder", 1, 2, SOURCE, 2), SourceCount("adder", 3, 2, SOURCE, 1))
    assert sum(tally.compared for tally in report.pairs) == 0
    gate.set()
    control.channel.send(Drain(60))
    last = await control.drained()
    assert last is not None
    assert (last.sources, last.ended) == ((), ())
    assert sum(tally.compared for tally in last.pairs) == 3


async def test_a_stuck_shadow_neither_silences_nor_outlives_its_worker(folder: Path) -> None:
    gate = threading.Event()
    shadow = Adder(gate)
    plan = plan_in(folder)
    control = await started(shadow, plan)
    await control.acknowledged()
    writer = await mirror(plan.address, on_the_wire(added()))
    await asyncio.to_thread(shadow.started.wait)
    writer.write(on_the_wire(added()) * 3)
    depth = 0
    while depth < 4:
        report = await control.channel.receive()
        assert isinstance(report, WorkerReport)
        depth = report.queue_depth
    control.channel.send(Drain(0.01))
    last = await control.drained()
    gate.set()
    writer.close()
    assert last is not None
    assert last.pairs[0].dropped == 4


async def test_a_version_that_does_not_load_is_reported_and_the_worker_waits(folder: Path) -> None:
    control = await started(LoadError("golden sample: output 'sum' differs"), plan_in(folder))
    ack = await control.acknowledged()
    assert (ack.version.state, ack.version.reason) == ("failed", "golden sample: output 'sum' differs")
    assert not control.worker.done()
    control.channel.send(Drain(1))
    assert await control.drained() is None


async def test_a_worker_that_cannot_listen_says_where(folder: Path) -> None:
    plan = msgspec.structs.replace(plan_in(folder), address=str(folder / "missing" / "mirror.sock"))
    control = await started(Adder(), plan)
    ack = await control.acknowledged()
    assert ack.version.state == "failed"
    assert plan.address in ack.version.reason
    control.channel.send(Drain(1))
    await control.drained()


async def test_a_worker_ends_when_control_is_gone(folder: Path) -> None:
    gate = threading.Event()
    shadow = Adder(gate)
    plan = plan_in(folder)
    control = await started(shadow, plan)
    await control.acknowledged()
    writer = await mirror(plan.address, on_the_wire(added()))
    await asyncio.to_thread(shadow.started.wait)
    control.channel.close()
    await control.worker
    gate.set()
    writer.close()


def write_adder(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0)],
        "adder",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], np.array([1]))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))


async def program(plan: WorkerPlan) -> tuple[Channel[FromChild], subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    settings = msgspec.json.encode(Settings()).decode()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "gnomon_server.shadow", str(theirs.fileno()), settings],
            pass_fds=[theirs.fileno()],
        )
    channel = await open_parent(ours)
    channel.send(plan)
    return channel, process


async def test_the_program_serves_a_real_model_and_exits_with_0(folder: Path) -> None:
    write_adder(folder)
    plan = plan_in(folder)
    channel, process = await program(plan)
    ack = await channel.receive()
    assert isinstance(ack, WorkerAck)
    assert ack.version.state == "ready", ack.version.reason
    if hasattr(os, "SCHED_IDLE"):
        threads = [int(thread.name) for thread in Path(f"/proc/{process.pid}/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    # Control alone decides when it ends.
    process.terminate()
    writer = await mirror(plan.address, b"".join(on_the_wire(added()) for _ in range(300)))
    channel.send(Drain(60))
    last: object = None
    while not isinstance(message := await channel.receive(), Drained):
        last = message
    assert await asyncio.to_thread(process.wait) == 0
    channel.close()
    writer.close()
    assert isinstance(last, WorkerReport)
    assert last.pairs[0].compared == last.pairs[0].agreement_sum == 300


async def test_the_program_ends_when_control_dies(folder: Path) -> None:
    channel, process = await program(plan_in(folder))
    ack = await channel.receive()
    assert isinstance(ack, WorkerAck)
    assert (ack.version.state, process.poll()) == ("failed", None)
    assert "model.onnx" in ack.version.reason
    channel.close()
    assert await asyncio.to_thread(process.wait) == 0
