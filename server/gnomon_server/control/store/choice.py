"""The choice of a store by its URL."""

from __future__ import annotations

from pathlib import Path

from gnomon_server.control.store import Store
from gnomon_server.errors import InvalidRequest
from gnomon_server.settings import Settings


def opened(settings: Settings) -> Store:
    """Returns the store that the settings name, ready for use; raises GnomonError if it cannot be had."""
    folder = Path(settings.state)
    key = Path(settings.audit.signing_key) if settings.audit.signing_key else None
    scheme = settings.store.partition(":")[0]
    if not settings.store:
        from gnomon_server.control.store.sqlite import SqliteStore

        return SqliteStore(folder, key)
    if scheme in ("postgresql", "postgres"):
        from gnomon_server.control.store.postgres import PostgresStore

        return PostgresStore(settings.store, folder, key)
    raise InvalidRequest(f"store: expected postgresql://USER@HOST/DATABASE or nothing, received '{scheme}:...'")
