"""Envoy between a client and two servers, as a cluster has it: calls, errors, deadlines, size, and a drain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from foreign.proxy import NEVER_BEGUN, Proxy, envoy
from raw_calls import SERVICE, channel, infer, output, request, sent, started
from servers import ServerProcess, eventually

ROW = np.array([[1.0, 2.0, 3.0]], np.float32)
HEAVY = np.full((1, 3), 2.0, np.float32)
CALLS = 200
CALLERS = 8
# grpc-core ends with CANCELLED, and never begins, what reaches it after its notice that it goes, and may close the
# connection under a call that it has not read; http2 answers both.
RETRIED = {"http2": NEVER_BEGUN, "grpcio": f"{NEVER_BEGUN},cancelled,reset"}


@pytest.fixture(scope="module")
def pair(
    server: ServerProcess, transport: str, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """Two servers of the same models."""
    with ServerProcess(repository, tmp_path_factory.mktemp("second"), "--transport", transport) as second:
        yield server, second


@pytest.fixture(scope="module")
def proxy(pair: tuple[ServerProcess, ServerProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Envoy before both."""
    with envoy(tmp_path_factory.mktemp("envoy"), [server.grpc for server in pair]) as running:
        yield running


@pytest.fixture(scope="module")
def wire(proxy: Proxy) -> Iterator[grpc.Channel]:
    """A channel to Envoy."""
    with channel(proxy.address) as opened:
        yield opened


def doubled(wire: grpc.Channel, number: float) -> None:
    """Makes one call and checks its answer."""
    row = np.array([[number, number + 1, -number]], np.float32)
    answer = infer(wire, request("line", {"x": row}, id=str(number)))
    assert answer.id == str(number)
    assert output(answer).tolist() == (row * 2).tolist()


def failure(call: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


def test_calls_through_envoy_are_shared_out_and_answered(wire: grpc.Channel, proxy: Proxy) -> None:
    before = {host: counters["rq_success"] for host, counters in proxy.hosts().items()}
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(lambda own: doubled(wire, own), range(CALLS)))
    after = {host: counters["rq_success"] for host, counters in proxy.hosts().items()}
    assert [after[host] - before[host] for host in before] == [CALLS // 2, CALLS // 2]


def test_a_mistake_keeps_its_status_and_its_text_through_envoy(wire: grpc.Channel) -> None:
    error: Any = failure(lambda: infer(wire, request("50% off\n", {"x": ROW})))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "model '50% off\\n' not found")
    error = failure(lambda: sent(wire, SERVICE + "TraceSetting", b""))
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "method 'TraceSetting' is not offered")


def test_a_deadline_passes_through_envoy_and_the_next_call_is_answered(wire: grpc.Channel, proxy: Proxy) -> None:
    error: Any = failure(lambda: infer(wire, request("slow", {"x": HEAVY}), seconds=0.1))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    doubled(wire, 1)
    # Nothing is left open behind the proxy.
    eventually(lambda: all(counters["rq_active"] == 0 for counters in proxy.hosts().values()))


def test_a_cancellation_passes_through_envoy(wire: grpc.Channel, proxy: Proxy) -> None:
    call = started(wire, request("slow", {"x": HEAVY}))
    eventually(lambda: any(counters["rq_active"] for counters in proxy.hosts().values()))
    call.cancel()
    eventually(lambda: all(counters["rq_active"] == 0 for counters in proxy.hosts().values()))
    doubled(wire, 2)


def test_two_mebibytes_come_back_through_envoy_as_they_should(wire: grpc.Channel) -> None:
    rows = np.arange(2 * 2**20 // 12 * 3, dtype=np.float32).reshape(-1, 3)
    for _ in range(4):
        assert output(infer(wire, request("line", {"x": rows}))).tobytes() == (rows * 2).tobytes()


def test_two_frontends_behind_envoy_answer_every_call(transport: str, repository: Path, tmp_path: Path) -> None:
    flags = ("--transport", transport, "--workers", "2")
    with (
        ServerProcess(repository, tmp_path / "state", *flags) as server,
        envoy(tmp_path, [server.grpc]) as proxy,
        channel(proxy.address) as wire,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        list(callers.map(lambda own: doubled(wire, own), range(CALLS)))
        (counters,) = proxy.hosts().values()
        assert (counters["rq_success"], counters["rq_error"]) == (CALLS, 0)


def test_one_server_drains_behind_envoy_without_a_failed_call(
    server: ServerProcess, transport: str, repository: Path, tmp_path: Path
) -> None:
    enough = threading.Semaphore(0)
    stop = threading.Event()

    def caller(wire: grpc.Channel, own: int) -> int:
        made = 0
        while not stop.is_set():
            doubled(wire, own)
            made += 1
            enough.release()
        return made

    def more(calls: int) -> None:
        for _ in range(calls):
            assert enough.acquire(timeout=30)

    with (
        ServerProcess(repository, tmp_path / "state", "--transport", transport) as leaving,
        envoy(tmp_path, [server.grpc, leaving.grpc], RETRIED[transport]) as proxy,
        channel(proxy.address) as wire,
        ThreadPoolExecutor(CALLERS) as callers,
    ):
        loops = [callers.submit(caller, wire, own) for own in range(CALLERS)]
        try:
            more(CALLS)
            in_flight = [started(wire, request("slow", {"x": HEAVY})) for _ in range(4)]
            more(CALLERS)
            assert leaving.terminate() == 0
            more(CALLS)
        finally:
            stop.set()
        assert [output(call.result()).tolist() for call in in_flight] == [HEAVY.tolist()] * 4
        # A call that failed would raise here.
        assert sum(loop.result() for loop in loops) >= 2 * CALLS
        assert proxy.hosts()[leaving.grpc]["rq_success"] > 0
