"""The alarm: looks when it is told to, and has what began or ended told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gnomon_server.control.alerts.watch import Look, Watch
from gnomon_server.control.alerts.webhook import Webhook
from gnomon_server.settings import AlertSettings

# Alertmanager takes an alert that it does not hear of for five minutes for one that has ended.
REPEAT_SECONDS: Final = 60.0


class Alarm:
    """Belongs to control's event loop."""

    def __init__(
        self, settings: AlertSettings, webhook: Webhook, look: Callable[[], Look], leads: Callable[[], bool]
    ) -> None:
        """`leads` says whether it is this server that tells, where several share a store."""
        self._settings = settings
        self._webhook = webhook
        self._look, self._leads = look, leads
        self._watch = Watch(settings)
        self._repeat_at = 0.0

    async def look(self) -> None:
        """Looks once; never waits for a receiver."""
        if not self._leads():
            # Whoever tells next begins with all that is so then.
            self._watch = Watch(self._settings)
            return
        news = self._watch.look(self._look())
        now = time.monotonic()
        if self._settings.format == "alertmanager" and now >= self._repeat_at:
            self._repeat_at = now + REPEAT_SECONDS
            news = [*(one for one in news if one.until), *self._watch.firing]
        self._webhook.send(news)
