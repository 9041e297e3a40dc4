"""The log of every process: one line an event on stderr, its level from GNOMON_LOG."""

from __future__ import annotations

import logging
import os


def configure() -> None:
    """Sends the log to stderr; WARNING and above unless GNOMON_LOG names another level."""
    level = os.environ.get("GNOMON_LOG", "WARNING").upper()
    known = logging.getLevelNamesMapping()
    logging.basicConfig(
        level=known.get(level, logging.WARNING), format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
    )
