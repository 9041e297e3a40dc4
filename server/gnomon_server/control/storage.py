"""The storage as a server meets it: whether the store is away, why and since when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gnomon_server.control.times import rfc3339, utc_now
from gnomon_server.errors import NotReady


class Storage:
    """Belongs to control's event loop."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._since = clock()
        # Why the store was not reached when it was last asked; empty while all is well.
        self.trouble = ""

    @property
    def away(self) -> str:
        """Since when the store is away and why, as a sentence without a full stop; empty while all is well."""
        since = rfc3339(self._since)
        return f"the store is away since {since}: {self.trouble}" if self.trouble else ""

    def asked(self, error: NotReady | None = None) -> None:
        """Takes what became of asking the store."""
        if error is not None and not self.trouble:
            self._since = self._clock()
        self.trouble = str(error) if error is not None else ""
