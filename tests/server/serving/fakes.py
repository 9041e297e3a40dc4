"""Servables, calls and shadow workers that behave: what the tests of the frontend run on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, cast

import numpy as np

from gnomon_protos.tensors import Array
from gnomon_server.errors import GnomonError
from gnomon_server.models.servable import Servable
from gnomon_server.models.session import Session
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.serving.inference import Inference, Layout
from gnomon_server.serving.transport import Call
from gnomon_server.settings import MODEL_DEFAULTS, ModelSettings
from gnomon_server.wire import hello, record
from gnomon_server.wire.plans import ShadowFeed, VersionRef
from gnomon_server.wire.record import Record

LINE = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 3)),))
# Of a servable that is never run, or runs by itself.
NO_SESSION = cast("Session", None)


class Doubler(Servable):
    """y = 2 x: it waits for `gate` before each run, takes `seconds` for it, and raises `error` if there is one."""

    signature = LINE

    def __init__(
        self,
        version: int = 1,
        model: str = "line",
        gate: threading.Event | None = None,
        error: GnomonError | None = None,
        seconds: float = 0.0,
        settings: ModelSettings = MODEL_DEFAULTS,
    ) -> None:
        ref = VersionRef(model, version, f"/models/{model}/{version}")
        super().__init__(ref, NO_SESSION, self.signature, (), f"sha256:{version:064x}", True, settings)
        self.gate, self.error, self.seconds = gate, error, seconds
        # The thread of each run that began.
        self.threads: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.threads.append(threading.get_ident())
        if self.gate is not None:
            assert self.gate.wait(30)
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        # As onnxruntime, which warns of no overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            return [2 * inputs["x"] for _ in outputs]


class HeldCall(Call):
    """A call that keeps how it ended; it may have metadata and a deadline."""

    def __init__(
        self,
        message: bytes = b"",
        metadata: Mapping[str, str] | None = None,
        remaining: float | None = None,
        method: str = "inference.GRPCInferenceService/ModelInfer",
    ) -> None:
        super().__init__(method, message)
        self._metadata = metadata or {}
        self._remaining = remaining
        # The answer, or the error.
        self.result: bytes | GnomonError | None = None
        self.over = asyncio.Event()

    def metadata(self, key: str) -> str | None:
        return self._metadata.get(key)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> float | None:
        return self._remaining

    def answer(self, message: bytes) -> None:
        assert self.result is None
        self.result, self.ended = message, True
        self.over.set()

    def fail(self, error: GnomonError) -> None:
        assert self.result is None
        self.result, self.ended = error, True
        self.over.set()


def inference(
    servable: Servable,
    name: str,
    rows: int = 1,
    value: float = 1.0,
    limit: float | None = None,
    kind: object = "kind",
    since: float | None = None,
    priority: int = 0,
) -> Inference:
    """A request for y of a line, by its name, that came at the time.perf_counter() of `since` or just now."""
    layout = Layout(servable, "primary", ("x",), (np.dtype(np.float32),), ((rows, 3),), ("y",), rows, kind, priority)
    call = HeldCall()
    if since is not None:
        call.start = since
    raw = np.full((rows, 3), value, np.float32).tobytes()
    return Inference(call, name.encode(), layout, (raw,), None, limit)


class Reader:
    """A shadow worker's socket: it takes connections at once, and reads only when it is told to."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._server: asyncio.Server | None = None
        self._connected: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        # Of the connection that was read.
        self.source: str | None = None

    async def __aenter__(self) -> Self:
        # A small limit: what is not read stays with the sender, or in the kernel.
        self._server = await asyncio.start_unix_server(self._accept, self.address, limit=1 << 10)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        for writer in self._writers:
            writer.close()
        self._server.close()
        await self._server.wait_closed()
        # A turn of the loop in which the transports close their sockets.
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._connected.put_nowait((reader, writer))

    async def records(self, most: int | None = None) -> list[Record]:
        """Takes the next connection and reads its hello and `most` records from it, or all until it ends."""
        reader, _ = await self._connected.get()
        self.source = hello.decode(await reader.readexactly(hello.SIZE))
        buffer, found, sample = bytearray(), list[Record](), 0.0
        while most is None or len(found) < most:
            data = await reader.read(1 << 16)
            if not data:
                assert not buffer
                break
            buffer += data
            while len(buffer) >= record.MARK.size:
                size, share = record.MARK.unpack_from(buffer)
                if size == record.MARK.size:
                    sample = share
                    del buffer[:size]
                elif size == record.LOSS.size:
                    if len(buffer) < size:
                        break
                    del buffer[:size]
                elif (decoded := record.decode(bytes(buffer), 0, sample)) is not None:
                    found.append(decoded[0])
                    del buffer[: decoded[1]]
                else:
                    break
        return found

    async def leave(self) -> None:
        """Takes the next connection and closes it unread, as a worker does that dies."""
        _, writer = await self._connected.get()
        writer.transport.abort()


def shadow(address: str, sample: float = 1.0, version: int = 2, epoch: str = "epoch") -> ShadowFeed:
    """Where a feed goes."""
    return ShadowFeed("line", version, sample, address, epoch)


def mirrored(request: bytes, primary: int = 1) -> Record:
    """A finished request with these bytes as its request."""
    return Record(
        primary=primary,
        sampled=False,
        start_ns=1,
        end_ns=2,
        run_start_ns=1,
        run_end_ns=2,
        trace_id=b"t" * 16,
        span_id=1,
        parent_id=0,
        peer=b"",
        trace_state=b"",
        request=request,
        response=b"answer",
    )
