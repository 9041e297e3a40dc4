from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from math import inf
from pathlib import Path

import msgspec
import profiled
import pytest

from gnomon_server.control.audit.chain import verify
from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.control.guarding import Thinning
from gnomon_server.control.routes import Route
from gnomon_server.control.store import AuditEntry, Store
from gnomon_server.control.store.schema import MIGRATIONS
from gnomon_server.control.store.sqlite import FILE, SqliteStore
from gnomon_server.control.store.tables import KEPT_WINDOWS
from gnomon_server.control.trial import Answered, Trial
from gnomon_server.errors import NotReady, Refused
from gnomon_server.wire.counts import HistogramCounts
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, empty
from gnomon_server.wire.tallies import OutputTally

FOUND = AuditEntry("gnomon", "discover", 1)
FIRST = Route("churn", 1, primary=1, shadows={2: 0.5, 10: 1.0}, idle=frozenset({3, 4}))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = SqliteStore(tmp_path)
    yield store
    store.close()


def comparison(compared: int, shadow: int = 2) -> Comparison:
    return Comparison(
        Pair("churn", 1, shadow),
        since=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
        outcomes=Outcomes(compared=compared, pending=3),
        agreement_sum=compared / 3,
        outputs=(OutputTally("p", "probabilities", 0.01, compared, 1, inf, 0.1, empty(DIVERGENCE_BOUNDS)),),
    )


def audit_ids(store: Store, model: str = "", limit: int = 100) -> list[int]:
    return [record.id for record in store.audit(model, limit)]


def test_a_new_store_is_empty(store: Store) -> None:
    assert (store.routes(), store.tallies(), store.audit()) == ({}, [], [])


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "deep" / "state")
    record = first.change(FIRST, FOUND)
    first.save_tallies([comparison(5), comparison(7, shadow=3)])
    first.save_tallies([comparison(6)])
    assert first.remember_digest("churn", 1, "sha256:a") == "sha256:a"
    first.close()
    second = SqliteStore(tmp_path / "deep" / "state")
    assert second.routes() == {"churn": FIRST}
    assert second.tallies() == [comparison(6), comparison(7, shadow=3)]
    assert second.audit() == [record]
    assert second.remember_digest("churn", 1, "sha256:b") == "sha256:a"
    assert second.digests() == {("churn", 1): "sha256:a"}
    second.close()


def test_when_mirroring_was_thinned_is_there_after_a_restart(tmp_path: Path) -> None:
    began, ended = datetime(2026, 1, 2, 3, 4, 5, 678, UTC), datetime(2026, 1, 2, 4, tzinfo=UTC)
    store = SqliteStore(tmp_path)
    assert store.thinnings() == []
    for count in (1, 2):
        store.save_thinnings([Thinning("churn", began, ended, 0.25, "queue")] * count)
    store.close()
    again = SqliteStore(tmp_path)
    assert again.thinnings() == [Thinning("churn", began, ended, 0.25, "queue")] * 2
    again.close()


def test_what_a_canary_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    durations = HistogramCounts((1, 2**40, *[0] * 19), 0.1 + 0.2)
    found = [Trial("churn", 4, 1, 2, Answered(3, durations), past=Answered(1, durations))]
    store = SqliteStore(tmp_path)
    assert store.trials() == []
    for trials in ([], found):
        store.save_trials(trials)
    assert store.trials_elsewhere() == []
    store.close()
    again = SqliteStore(tmp_path)
    assert again.trials() == found
    again.close()


def test_a_change_is_recorded_with_what_was_before(store: Store) -> None:
    found = store.change(FIRST, FOUND)
    second = FIRST.promoted(2)
    entry = AuditEntry("ann", "promote", 2, "looks good", forced=True, evidence='{"model": "churn"}')
    promoted = store.change(second, entry)
    assert (found.id, found.before, found.after) == (1, Route("churn"), FIRST)
    assert (promoted.id, promoted.before, promoted.after, promoted.entry) == (2, FIRST, second, entry)
    assert promoted.time.endswith("Z")
    assert datetime.fromisoformat(promoted.time).tzinfo is not None
    assert store.audit() == [promoted, found]
    assert store.routes() == {"churn": second}


def test_a_change_of_an_outdated_route_is_refused_and_leaves_nothing(store: Store) -> None:
    store.change(FIRST, FOUND)
    with pytest.raises(Refused, match="expected generation 0, found 1"):
        store.change(FIRST, FOUND)
    with pytest.raises(Refused, match="expected generation 2, found 1"):
        store.change(FIRST.promoted(2).promoted(3), FOUND)
    assert store.routes() == {"churn": FIRST}
    assert audit_ids(store) == [1]


def test_the_audit_is_read_newest_first_by_model_and_bounded(store: Store) -> None:
    for name in ("churn", "fraud"):
        route = Route(name, 1, primary=1)
        store.change(route, FOUND)
        store.change(route.shadowed(2, 1.0), FOUND)
    assert audit_ids(store) == [4, 3, 2, 1]
    assert audit_ids(store, "churn") == [2, 1]
    assert audit_ids(store, limit=3) == [4, 3, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET body = 'nobody'",
        "DELETE FROM audit",
        "REPLACE INTO audit SELECT * FROM audit",
    ],
)
def test_the_audit_only_grows_even_for_other_programs(tmp_path: Path, store: Store, statement: str) -> None:
    record = store.change(FIRST, FOUND)
    other = sqlite3.connect(tmp_path / FILE)
    with pytest.raises(sqlite3.IntegrityError, match="the audit only grows"):
        other.execute(statement)
    other.close()
    assert store.audit() == [record]


def test_a_second_server_is_told_who_holds_the_state(tmp_path: Path, store: Store) -> None:
    script = f"""
from pathlib import Path
from gnomon_server.control.store.sqlite import SqliteStore
from gnomon_server.errors import Refused
try:
    SqliteStore(Path({str(tmp_path)!r}))
except Refused as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert f"another gnomon (process {os.getpid()}) uses this state" in found
    assert found.count("\n") == 1
    assert store.routes() == {}


def test_the_state_is_free_again_once_closed(tmp_path: Path) -> None:
    SqliteStore(tmp_path).close()
    SqliteStore(tmp_path).close()


WRITER = """
import sys
from pathlib import Path
from gnomon_server.control.audit.chain import verify
from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.control.routes import Route
from gnomon_server.control.store import AuditEntry
from gnomon_server.control.store.sqlite import SqliteStore

store = SqliteStore(Path(sys.argv[1]))
route = store.routes().get("churn", Route("churn"))
while True:
    generation = route.generation + 1
    route = Route("churn", generation, primary=generation)
    store.change(route, AuditEntry("writer", "shadow", generation))
    store.save_tallies([Comparison(Pair("churn", 1, 2), outcomes=Outcomes(compared=generation))])
    print(generation, flush=True)
"""


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            announced = [writer.stdout.readline() for _ in range(10)]
            writer.send_signal(signal.SIGKILL)
            committed = int([*announced, *writer.stdout][-1])
        store = SqliteStore(tmp_path)
        generation = store.routes()["churn"].generation
        # The write after the last one that was announced may have been committed too.
        assert generation in (committed, committed + 1)
        assert audit_ids(store, limit=generation + 1) == list(range(generation, 0, -1))
        assert store.tallies()[0].outcomes.compared in (committed, generation)
        store.close()


def test_the_schema_is_built_from_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    SqliteStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / FILE)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_an_audit_from_before_the_chain_is_kept_and_chained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    route = Route("churn", 2, primary=2, previous=1, shadows={3: 0.5}, idle=frozenset({4}))
    with closing(sqlite3.connect(tmp_path / FILE)) as old, old:
        old.executescript(f"BEGIN; {MIGRATIONS[0]}; PRAGMA user_version = 1; COMMIT;")
        old.execute("INSERT INTO routes VALUES ('churn', 2, 2, 1, '{\"3\":0.5}', '[4]')")
        for number in (1, 2):
            old.execute(
                "INSERT INTO audit VALUES (?, '2026-01-01T00:00:00Z', 'ann', 'promote', 'churn', 2, 'why', 1, ?, ?, ?)",
                (number, '{"model":"churn"}', msgspec.json.encode(route).decode(), '{"model":"churn"}'),
            )
    store = SqliteStore(tmp_path)
    assert store.routes() == {"churn": route}
    entry = AuditEntry("ann", "promote", 2, "why", forced=True, evidence='{"model":"churn"}')
    assert [(r.id, r.entry, r.after.primary) for r in store.audit()] == [(2, entry, 2), (1, entry, 2)]
    store.change(route.promoted(3), FOUND)
    assert verify(store.entries(0, 10), {store.signer.public.id: store.signer.public}) == 3
    store.close()


def test_each_migration_keeps_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path)
    store.change(FIRST, FOUND)
    store.close()
    added = (*MIGRATIONS, "ALTER TABLE versions ADD COLUMN size INTEGER;")
    monkeypatch.setattr("gnomon_server.control.store.sqlite.MIGRATIONS", added)
    store = SqliteStore(tmp_path)
    assert store.routes() == {"churn": FIRST}
    store.close()
    monkeypatch.undo()
    with pytest.raises(Refused, match=r"a newer gnomon wrote this state: expected schema \d or older, found \d"):
        SqliteStore(tmp_path)


def test_a_migration_that_fails_leaves_the_state_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path)
    store.change(FIRST, FOUND)
    store.close()
    broken = (*MIGRATIONS, "ALTER TABLE versions ADD COLUMN size INTEGER; ALTER TABLE nothing ADD COLUMN size INTEGER;")
    monkeypatch.setattr("gnomon_server.control.store.sqlite.MIGRATIONS", broken)
    with pytest.raises(NotReady, match="cannot be opened"):
        SqliteStore(tmp_path)
    monkeypatch.undo()
    store = SqliteStore(tmp_path)
    assert store.routes() == {"churn": FIRST}
    store.close()


def test_a_file_that_is_no_database_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be looked at " * 100)
    assert_damaged(tmp_path)


def test_a_damaged_page_is_reported_in_one_line(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.change(FIRST, FOUND)
    store.close()
    size = (tmp_path / FILE).stat().st_size
    with (tmp_path / FILE).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    assert_damaged(tmp_path)


def test_a_row_that_makes_no_sense_is_reported_in_one_line(tmp_path: Path, store: Store) -> None:
    store.change(FIRST, FOUND)
    other = sqlite3.connect(tmp_path / FILE)
    with other:
        other.execute("UPDATE routes SET route = 'nonsense'")
    other.close()
    with pytest.raises(Refused, match="row that cannot be read"):
        store.routes()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady, match="the state folder cannot be used: Not a directory"):
        SqliteStore(tmp_path / "file" / "state")


def test_a_full_disk_is_reported_and_undone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.change(FIRST, FOUND)
    store._connection.execute("PRAGMA max_page_count = 1").fetchall()
    with pytest.raises(NotReady, match="the state cannot be read or written: database or disk is full"):
        store.change(FIRST.promoted(2), AuditEntry("ann", "promote", 2, "x" * 100_000))
    assert store.routes() == {"churn": FIRST}
    store.close()


def assert_damaged(folder: Path) -> None:
    with pytest.raises(Refused, match="the state is damaged") as caught:
        SqliteStore(folder)
    assert "\n" not in str(caught.value)
    assert FILE in str(caught.value)


def test_windows_of_traffic_are_stored_by_life_and_forgotten_when_long_over(store: Store) -> None:
    now = int(time.time() / 60)
    rows = [profiled.window(now - 1, profiled.EVEN), profiled.window(now, profiled.SHIFTED)]
    store.save_windows("a", rows)
    store.save_windows("a", rows[:1])
    store.save_windows("b", rows[1:])
    assert store.windows("m", 1) == [rows[0], rows[1], rows[1]]
    assert store.windows("m", 2) == []
    store.save_windows("a", [profiled.window(now - KEPT_WINDOWS - 1, profiled.EVEN)])
    assert store.windows("m", 1) == [rows[0], rows[1], rows[1]]
