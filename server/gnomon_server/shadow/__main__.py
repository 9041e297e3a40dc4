"""The program of a shadow worker: `python -m gnomon_server.shadow CHANNEL_FD SETTINGS`.

CHANNEL_FD is the inherited descriptor of the channel to control, SETTINGS the server's settings as JSON.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from gnomon_server.settings import CompareSettings, FeedbackSettings, ModelSettings, RemoteSettings, Settings
from gnomon_server.shadow import memory
from gnomon_server.wire.plans import VersionRef

if TYPE_CHECKING:
    from gnomon_server.shadow.trial import Shadow

log = logging.getLogger("gnomon_server.shadow")

# Until the version is loaded: at the lowest priority that would take minutes on a busy machine.
LOADING_NICE: Final = 10


def main() -> int:
    """Serves until drained, or until control is gone; returns the exit status."""
    logging.basicConfig(
        level=os.environ.get("GNOMON_LOG", "WARNING").upper(),
        format="%(asctime)s shadow[%(process)d] %(levelname)s %(name)s: %(message)s",
    )
    # Ctrl-C reaches the whole group of processes; control decides who ends when.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    os.nice(LOADING_NICE)
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    settings = msgspec.json.decode(sys.argv[2], type=Settings)
    memory.volunteer()
    status = 0
    try:
        asyncio.run(_serve(int(sys.argv[1]), settings))
    except* MemoryError as errors:
        log.error("out of memory: %s", errors.exceptions[0])
        status = memory.OUT_OF_MEMORY
    except* Exception:
        log.exception("the worker failed")
        status = 1
    return status


async def _serve(descriptor: int, settings: Settings) -> None:
    # onnxruntime reads the environment at its import.
    from gnomon_server.models.servable import load
    from gnomon_server.shadow.recorder import recorder
    from gnomon_server.shadow.worker import Worker
    from gnomon_server.wire.channel import open_child

    def load_and_yield(ref: VersionRef) -> Shadow:
        model = settings.model(ref.model)
        remote = model.remotes.get(str(ref.version))
        shadow = load(ref, model) if remote is None else _remote(ref, remote, model, settings.mirror.deadline)
        _yield_to_everyone()
        return shadow

    channel, bound = await open_child(descriptor), memory.Bound(settings.mirror.worker_bytes)
    record = partial(recorder, settings)

    def looking(model: str) -> CompareSettings:
        return settings.model(model).compare

    def remembering(model: str) -> FeedbackSettings:
        return settings.model(model).feedback

    await Worker(channel, settings.mirror, load_and_yield, record, bound, looking, remembering).run()


def _remote(ref: VersionRef, settings: RemoteSettings, model: ModelSettings, deadline: float) -> Shadow:
    # gRPC is loaded by those workers only that call.
    from gnomon_server.models import overrides
    from gnomon_server.shadow.remote import Remote

    remote = Remote(ref.model, ref.version, settings, deadline)
    remote.comparisons = overrides.comparisons(model.outputs)
    return remote


def _yield_to_everyone() -> None:
    """Takes the lowest priority, so that the shadow runs on what the primary leaves."""
    if not hasattr(os, "SCHED_IDLE"):
        os.nice(19)
        return
    # Linux schedules threads, and a thread inherits from its maker only: the loop's thread runs already.
    for thread in Path("/proc/self/task").iterdir():
        try:
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:
            log.debug("no idle scheduling: %s", error)


if __name__ == "__main__":
    status = main()
    logging.shutdown()
    # A shadow that is stuck in its thread would keep an ordinary exit waiting for ever.
    os._exit(status)
