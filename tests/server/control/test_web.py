from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
import telemetry_samples
from prometheus_client.parser import text_string_to_metric_families

from gnomon_protos import control_pb2 as pb
from gnomon_server.control.page import View
from gnomon_server.control.web import Web
from gnomon_server.errors import InvalidRequest


class Site:
    """A running web side, and someone who looks at it."""

    def __init__(self) -> None:
        self.ready = False
        self.away = ""
        self.web = Web(self._view, telemetry_samples.snapshot, lambda: self.ready, lambda: self.away)
        self.base = ""

    async def _view(self) -> View:
        return View([pb.ModelStatus(name="churn")], [], [])

    async def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        async with aiohttp.ClientSession() as session, session.get(self.base + path) as answer:
            return answer.status, await answer.text(), dict(answer.headers)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    port = await site.web.start("127.0.0.1:0")
    site.base = f"http://127.0.0.1:{port}"
    yield site
    await site.web.stop()


async def test_the_page_is_html_that_needs_nothing_from_elsewhere(site: Site) -> None:
    status, text, headers = await site.get("/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "churn" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


async def test_the_metrics_are_what_prometheus_reads(site: Site) -> None:
    status, text, headers = await site.get("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert {"gnomon_mirror_requests", "nv_inference_request_success", "rpc_server_call_duration_seconds"} <= names


async def test_a_server_is_healthy_before_it_is_ready(site: Site) -> None:
    assert (await site.get("/healthz"))[:2] == (200, "ok\n")
    assert (await site.get("/readyz"))[:2] == (503, "not ready\n")
    site.ready = True
    assert (await site.get("/readyz"))[:2] == (200, "ready\n")


async def test_a_server_whose_store_is_away_is_ready_and_says_so(site: Site) -> None:
    site.ready, site.away = True, "the store is away since 2026-01-02T09:00:00Z: it hangs"
    assert (await site.get("/readyz"))[:2] == (200, f"ready\n{site.away}\n")


async def test_other_paths_and_methods_are_not_found(site: Site) -> None:
    assert (await site.get("/../etc/passwd"))[0] == 404
    async with aiohttp.ClientSession() as session, session.post(site.base + "/") as answer:
        assert answer.status == 405


async def test_an_address_that_is_taken_is_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        web = Site().web
        with pytest.raises(InvalidRequest, match=f"cannot listen on {address}: "):
            await web.start(address)
        await web.stop()
