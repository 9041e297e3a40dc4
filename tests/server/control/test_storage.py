"""The storage: since when the store is away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gnomon_server.control.storage import Storage
from gnomon_server.errors import NotReady


def test_a_store_is_away_since_it_was_not_reached_for_the_first_time_and_until_it_is() -> None:
    times = [datetime(2026, 1, 2, 9, tzinfo=UTC) + timedelta(minutes=minute) for minute in range(3)]
    storage = Storage(iter(times).__next__)
    assert (storage.trouble, storage.away) == ("", "")
    storage.asked(NotReady("it hangs"))
    storage.asked(NotReady("it is gone"))
    assert storage.trouble == "it is gone"
    assert storage.away == "the store is away since 2026-01-02T09:01:00Z: it is gone"
    storage.asked()
    assert (storage.trouble, storage.away) == ("", "")
    storage.asked(NotReady("it hangs"))
    assert storage.away == "the store is away since 2026-01-02T09:02:00Z: it hangs"
