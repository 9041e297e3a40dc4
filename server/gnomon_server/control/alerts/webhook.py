"""The webhook: alerts as HTTP requests, in order, each sent again until it is taken."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from gnomon_server.control.alerts.watch import Firing, labels
from gnomon_server.control.times import rfc3339
from gnomon_server.errors import InvalidRequest
from gnomon_server.settings import AlertSettings

log = logging.getLogger(__name__)

# Seconds for one attempt; between the first two, which doubles; and between any two at most.
ATTEMPT_SECONDS: Final = 10.0
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
# Messages that wait; the oldest is given up for a newer one.
WAITING: Final = 256
# Statuses by which a receiver says that it may take the same later; others of 400 to 499 say that it never will.
LATER: Final = frozenset({408, 425, 429})
ALERTMANAGER_PATH: Final = "/api/v2/alerts"

Pause = Callable[[float], Awaitable[None]]


class Webhook:
    """Sends from a task of its own; belongs to control's event loop."""

    def __init__(self, settings: AlertSettings, pause: Pause = asyncio.sleep) -> None:
        """Reads the token, if there is one; raises InvalidRequest if it cannot be read."""
        self._settings = settings
        self._pause = pause
        self._waiting: asyncio.Queue[Any] = asyncio.Queue(WAITING)
        self._headers = {"User-Agent": "gnomon"}
        if settings.token_file:
            self._headers["Authorization"] = f"Bearer {_token(Path(settings.token_file))}"
        self._url = settings.webhook
        if settings.format == "alertmanager" and not self._url.endswith(ALERTMANAGER_PATH):
            self._url = self._url.rstrip("/") + ALERTMANAGER_PATH

    def send(self, alerts: Sequence[Firing]) -> None:
        """Takes alerts that began or ended, to be sent as one message; never waits."""
        if not alerts:
            return
        if self._waiting.full():
            self._waiting.get_nowait()
            log.error("alerts: %s does not take them: the oldest message is given up", self._url)
        body = alertmanager(alerts) if self._settings.format == "alertmanager" else plain(alerts)
        self._waiting.put_nowait(body)

    async def run(self) -> None:
        """Sends what waits, for ever."""
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            while True:
                await self._deliver(session, await self._waiting.get())

    async def _deliver(self, session: aiohttp.ClientSession, body: object) -> None:
        pause = FIRST_PAUSE
        while problem := await self._attempt(session, body):
            log.warning("alerts: %s: %s; it is tried again in %.0f s", self._url, problem, pause)
            # Servers that share a receiver must not come back all at once.
            await self._pause(pause * random.uniform(0.75, 1.25))  # noqa: S311 - nothing to keep secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _attempt(self, session: aiohttp.ClientSession, body: object) -> str:
        """Returns why it has to be tried again, or nothing."""
        try:
            # A redirect would carry the token elsewhere.
            async with session.post(self._url, json=body, allow_redirects=False) as answer:
                if answer.status < 300:
                    return ""
                if answer.status >= 500 or answer.status in LATER:
                    return f"answered {answer.status}"
                log.error("alerts: %s answered %d: the message is given up", self._url, answer.status)
                return ""
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return str(error) or type(error).__name__


def plain(alerts: Sequence[Firing]) -> dict[str, object]:
    """Returns alerts as the generic JSON message."""
    return {
        "version": 1,
        "alerts": [
            {
                "status": "resolved" if one.until else "firing",
                "name": one.alert.name,
                "model": one.alert.model,
                "version": one.alert.version,
                "severity": one.alert.severity,
                "summary": one.alert.summary,
                "since": rfc3339(one.since, "milliseconds"),
                "until": rfc3339(one.until, "milliseconds") if one.until else None,
            }
            for one in alerts
        ],
    }


def alertmanager(alerts: Sequence[Firing]) -> list[dict[str, object]]:
    """Returns alerts as Alertmanager takes them (its API v2, postAlerts)."""
    return [
        {
            "labels": dict(labels(one.alert)),
            "annotations": {"summary": one.alert.summary},
            "startsAt": rfc3339(one.since, "milliseconds"),
            **({"endsAt": rfc3339(one.until, "milliseconds")} if one.until else {}),
        }
        for one in alerts
    ]


def _token(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file}: the token of the webhook cannot be read: {error}") from None
