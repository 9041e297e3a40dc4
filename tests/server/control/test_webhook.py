from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gnomon_server.control.alerts import webhook
from gnomon_server.control.alerts.watch import Alert, Firing
from gnomon_server.control.alerts.webhook import Webhook
from gnomon_server.errors import InvalidRequest
from gnomon_server.settings import AlertSettings

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDED = datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)


def firing(name: str, until: datetime | None = None) -> Firing:
    return Firing(Alert(name, "m", 2, "warning", "so it is"), BEGAN, until)


@dataclass
class Receiver:
    """An HTTP server that answers with these statuses, and with 200 when they are used up."""

    statuses: list[int] = field(default_factory=list)
    port: int = 0
    bodies: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    got: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.paths.append(request.path)
        self.tokens.append(request.headers.get("Authorization"))
        status = self.statuses.pop(0) if self.statuses else 200
        self.got.put_nowait(status)
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else {})

    async def answers(self, count: int) -> list[int]:
        async with asyncio.timeout(30):
            return [await self.got.get() for _ in range(count)]


@asynccontextmanager
async def receiving(receiver: Receiver) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", receiver.port)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


@dataclass
class Pauses:
    """A sleep that only notes for how long, and gives others their turn."""

    seconds: list[float] = field(default_factory=list)
    slept: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.slept.set()
        await asyncio.sleep(0)


@asynccontextmanager
async def sending(hook: Webhook) -> AsyncIterator[None]:
    task = asyncio.create_task(hook.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_message_that_is_not_taken_is_sent_again_with_growing_pauses_and_the_next_waits() -> None:
    receiver, pauses = Receiver([500, 503, 429, 408]), Pauses()
    async with receiving(receiver):
        hook = Webhook(AlertSettings(webhook=f"http://127.0.0.1:{receiver.port}/hook"), pauses)
        hook.send([firing("First")])
        hook.send([])
        hook.send([firing("Second", ENDED)])
        async with sending(hook):
            assert await receiver.answers(6) == [500, 503, 429, 408, 200, 200]
    first, second = receiver.bodies[0], receiver.bodies[-1]
    assert receiver.bodies == [*[first] * 5, second]
    assert first == {
        "version": 1,
        "alerts": [
            {
                "status": "firing",
                "name": "First",
                "model": "m",
                "version": 2,
                "severity": "warning",
                "summary": "so it is",
                "since": "2026-01-02T03:04:05.000Z",
                "until": None,
            }
        ],
    }
    assert (second["alerts"][0]["status"], second["alerts"][0]["until"]) == ("resolved", "2026-01-02T03:05:05.000Z")
    for seconds, around in zip(pauses.seconds, (1, 2, 4, 8), strict=True):
        assert 0.75 * around <= seconds <= 1.25 * around


async def test_pauses_grow_to_a_minute_and_no_further() -> None:
    receiver, pauses = Receiver([500] * 12), Pauses()
    async with receiving(receiver):
        hook = Webhook(AlertSettings(webhook=f"http://127.0.0.1:{receiver.port}/"), pauses)
        hook.send([firing("Late")])
        async with sending(hook):
            await receiver.answers(13)
    assert max(pauses.seconds) <= 1.25 * 60
    assert min(pauses.seconds[7:]) >= 0.75 * 60


async def test_a_receiver_that_is_away_gets_the_message_when_it_is_there() -> None:
    receiver, pauses = Receiver(), Pauses()
    async with receiving(receiver):
        pass
    hook = Webhook(AlertSettings(webhook=f"http://127.0.0.1:{receiver.port}/"), pauses)
    hook.send([firing("Patient")])
    async with sending(hook):
        await pauses.slept.wait()
        async with receiving(receiver):
            assert await receiver.answers(1) == [200]
    assert receiver.bodies[0]["alerts"][0]["name"] == "Patient"


@pytest.mark.parametrize("status", [400, 401, 404, 302])
async def test_what_a_receiver_will_never_take_is_given_up(status: int) -> None:
    receiver, pauses = Receiver([status]), Pauses()
    async with receiving(receiver):
        hook = Webhook(AlertSettings(webhook=f"http://127.0.0.1:{receiver.port}/"), pauses)
        hook.send([firing("Unwanted")])
        hook.send([firing("Next")])
        async with sending(hook):
            assert await receiver.answers(2) == [status, 200]
    assert [body["alerts"][0]["name"] for body in receiver.bodies] == ["Unwanted", "Next"]
    assert (receiver.paths, pauses.seconds) == (["/", "/"], [])


async def test_alertmanager_gets_its_own_form_at_its_own_path(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    receiver = Receiver()
    async with receiving(receiver):
        url, token = f"http://127.0.0.1:{receiver.port}/", str(tmp_path / "token")
        hook = Webhook(AlertSettings(webhook=url, format="alertmanager", token_file=token))
        hook.send([firing("Begun"), firing("Over", ENDED)])
        async with sending(hook):
            await receiver.answers(1)
    assert (receiver.paths, receiver.tokens) == (["/api/v2/alerts"], ["Bearer secret"])
    begun, over = receiver.bodies[0]
    assert begun == {
        "labels": {"alertname": "Begun", "model": "m", "version": "2", "severity": "warning", "service": "gnomon"},
        "annotations": {"summary": "so it is"},
        "startsAt": "2026-01-02T03:04:05.000Z",
    }
    assert over["endsAt"] == "2026-01-02T03:05:05.000Z"


async def test_a_receiver_that_never_answers_costs_no_memory_without_end() -> None:
    receiver = Receiver()
    async with receiving(receiver):
        hook = Webhook(AlertSettings(webhook=f"http://127.0.0.1:{receiver.port}/"))
        for number in range(webhook.WAITING + 10):
            hook.send([firing(str(number))])
        async with sending(hook):
            await receiver.answers(webhook.WAITING)
    names = [body["alerts"][0]["name"] for body in receiver.bodies]
    assert names == [str(number) for number in range(10, webhook.WAITING + 10)]


def test_a_token_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"none: the token of the webhook cannot be read"):
        Webhook(AlertSettings(webhook="http://x/", token_file=str(tmp_path / "none")))
