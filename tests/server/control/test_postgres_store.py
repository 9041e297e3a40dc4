"""The shared store on a real PostgreSQL."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import profiled
import psycopg
import pytest
import signing_keys as keys
from databases import Database

from gnomon_server.control.audit.chain import verify
from gnomon_server.control.comparison import Comparison, Outcomes, Pair
from gnomon_server.control.routes import Route
from gnomon_server.control.store import AuditEntry
from gnomon_server.control.store.postgres import PostgresStore
from gnomon_server.control.store.tables import KEPT_WINDOWS, SERVER
from gnomon_server.control.trial import Answered, Trial
from gnomon_server.errors import InvalidRequest, NotReady, Refused

FOUND = AuditEntry("ann", "discover", 1)
FIRST = Route("churn", 1, primary=1, shadows={2: 0.5})


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with Database() as running:
        yield running


@pytest.fixture
def one(database: Database, tmp_path: Path) -> Iterator[PostgresStore]:
    database.run("DROP SCHEMA IF EXISTS gnomon CASCADE")
    store = PostgresStore(database.url, tmp_path / "one")
    yield store
    store.close()


@pytest.fixture
def other(database: Database, one: PostgresStore, tmp_path: Path) -> Iterator[PostgresStore]:
    store = PostgresStore(database.url, tmp_path / "other")
    yield store
    store.close()


def comparison(compared: int, pending: int = 0) -> Comparison:
    outcomes = Outcomes(compared=compared, pending=pending)
    return Comparison(Pair("churn", 1, 2), datetime(2026, 1, 2, tzinfo=UTC), outcomes, agreement_sum=compared / 3)


def test_everything_is_there_after_a_restart(one: PostgresStore, database: Database, tmp_path: Path) -> None:
    first = PostgresStore(database.url, tmp_path / "first")
    record = first.change(FIRST, FOUND)
    first.save_tallies([comparison(5)])
    first.save_tallies([comparison(6)])
    assert first.remember_digest("churn", 1, "sha256:a") == "sha256:a"
    first.close()
    second = PostgresStore(database.url, tmp_path / "first")
    assert second.routes() == {"churn": FIRST}
    assert second.tallies() == [comparison(6)]
    assert second.tallies_elsewhere() == one.tallies() == []
    assert second.audit() == [record]
    assert second.remember_digest("churn", 1, "sha256:b") == "sha256:a"
    assert second.digests() == {("churn", 1): "sha256:a"}
    second.close()


def test_each_stores_what_its_canaries_answered_and_reads_what_others_did(
    one: PostgresStore, other: PostgresStore
) -> None:
    mine, yours = Trial("churn", 4, 1, 2, Answered(3)), Trial("churn", 4, 1, 2, Answered(5))
    one.save_trials([mine])
    other.save_trials([yours, yours])
    assert (one.trials(), one.trials_elsewhere()) == ([mine], [yours, yours])
    other.save_trials([])
    assert (other.trials(), other.trials_elsewhere()) == ([], [mine])


def test_what_one_changes_the_other_learns_once(one: PostgresStore, other: PostgresStore) -> None:
    assert other.sync().routes == {}
    one.change(FIRST, FOUND)
    assert other.sync().routes == {"churn": FIRST}
    assert other.sync().routes == {}
    # What it knows from before is no ground for a change any more.
    one.change(FIRST.promoted(2), FOUND)
    with pytest.raises(Refused, match="the route was changed meanwhile: expected generation 1, found 2"):
        other.change(FIRST.promoted(3), FOUND)
    other.change(FIRST.promoted(2).promoted(3), FOUND)
    trusted = keys.trusted(one.signer, other.signer)
    assert verify(one.entries(0, 10), trusted) == verify(other.entries(0, 10), trusted) == 3


def test_one_decides_and_when_it_is_gone_the_other(
    one: PostgresStore, other: PostgresStore, database: Database
) -> None:
    assert (one.sync().leads, other.sync().leads, one.sync().leads) == (True, False, True)
    one.change(FIRST, AuditEntry(SERVER, "discover", 1))
    second = FIRST.promoted(2)
    with pytest.raises(Refused, match="another server that shares the store decides now"):
        other.change(second, AuditEntry(SERVER, "discover", 2))
    database.run("UPDATE lease SET until = '-infinity'")
    # Its time is over, although nobody has told it: what it begins now is refused.
    with pytest.raises(Refused, match="decides now"):
        one.change(second, AuditEntry(SERVER, "discover", 2))
    assert other.sync().leads
    assert not one.sync().leads
    other.change(second, AuditEntry(SERVER, "discover", 2))
    # What somebody asks for is done by any of them.
    one.change(second.rolled_back(), AuditEntry("ann", "rollback", 1))


def test_one_that_lost_and_regained_the_right_has_another_token(
    one: PostgresStore, other: PostgresStore, database: Database
) -> None:
    one.sync()
    begun = one._token
    database.run("UPDATE lease SET until = '-infinity'")
    assert other.sync().leads
    database.run("UPDATE lease SET until = '-infinity'")
    assert one.sync().leads
    assert one._token > begun
    one._token = begun
    with pytest.raises(Refused, match="decides now"):
        one.change(FIRST, AuditEntry(SERVER, "discover", 1))


def test_each_has_its_own_tallies_and_sees_the_others(
    one: PostgresStore, other: PostgresStore, database: Database
) -> None:
    for store, compared in ((one, 5), (other, 7)):
        store.sync()
        store.save_tallies([comparison(compared, pending=2)])
    assert (one.tallies(), one.tallies_elsewhere()) == ([comparison(5, 2)], [comparison(7, 2)])
    assert (other.tallies(), other.tallies_elsewhere()) == ([comparison(7, 2)], [comparison(5, 2)])
    database.run("UPDATE replicas SET seen = '-infinity'")
    other.sync()
    # What was pending at one that is gone never settles.
    assert other.tallies_elsewhere() == [comparison(5, 2).closed()]
    assert one.tallies_elsewhere() == [comparison(7, 2)]


@pytest.mark.parametrize("statement", ["UPDATE audit SET body = ''", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_audit_only_grows_even_for_other_programs(one: PostgresStore, database: Database, statement: str) -> None:
    record = one.change(FIRST, FOUND)
    with pytest.raises(psycopg.errors.RaiseException, match="the audit only grows"):
        database.run(statement)
    assert one.audit() == [record]


def test_a_database_that_hangs_is_given_up_and_taken_again(one: PostgresStore, database: Database) -> None:
    one.change(FIRST, FOUND)
    database.suspend()
    with pytest.raises(NotReady, match=r"postgresql://127\.0\.0\.1:\d+/postgres: the database cannot be reached"):
        one.change(FIRST.promoted(2), FOUND)
    # The next one does not wait as long.
    with pytest.raises(NotReady, match="it is tried again in a moment"):
        one.routes()
    database.resume()
    one._closed_until = 0.0
    # What was under way when it hung was made whole or not at all.
    assert one.routes() in ({"churn": FIRST}, {"churn": FIRST.promoted(2)})
    assert len(one.audit()) == one.routes()["churn"].generation


def test_a_database_that_died_is_taken_again_when_it_is_back(one: PostgresStore, database: Database) -> None:
    one.change(FIRST, FOUND)
    database.kill()
    with pytest.raises(NotReady, match="the database cannot be reached"):
        one.change(FIRST.promoted(2), FOUND)
    database.start()
    one._closed_until = 0.0
    one.change(FIRST.promoted(2), FOUND)
    assert one.routes() == {"churn": FIRST.promoted(2)}


def test_a_store_that_was_there_once_is_begun_without_and_written_when_it_is_back(
    one: PostgresStore, database: Database, tmp_path: Path
) -> None:
    one.change(FIRST, FOUND)
    one.remember_digest("churn", 1, "sha256:a")
    one.save_tallies([comparison(5)])
    old = one.replica
    one._drop()
    with pytest.raises(NotReady, match="the database cannot be reached"):
        PostgresStore("postgresql://me@127.0.0.1:1/db", tmp_path / "never")
    database.kill()
    fcntl.flock(one._held, fcntl.LOCK_UN)
    alone = PostgresStore(database.url, tmp_path / "one")
    assert alone.routes() == {"churn": FIRST}
    assert alone.digests() == {("churn", 1): "sha256:a"}
    assert alone.tallies() == []
    for attempt in (alone.sync, lambda: alone.change(FIRST.promoted(2), FOUND), alone.audit):
        with pytest.raises(NotReady, match="the database cannot be reached"):
            attempt()
    database.start()
    alone._closed_until = 0.0
    alone.save_tallies([comparison(2)])
    # Neither life takes the place of the other.
    assert alone.replica != old
    assert (alone.tallies(), alone.tallies_elsewhere()) == ([comparison(2)], [comparison(5)])
    alone.change(FIRST.promoted(2), FOUND)
    assert alone.routes() == {"churn": FIRST.promoted(2)}
    alone.close()


def test_a_newer_schema_is_left_alone(one: PostgresStore, database: Database, tmp_path: Path) -> None:
    database.run("UPDATE schema SET version = 99")
    with pytest.raises(Refused, match=r"a newer gnomon wrote it: expected schema \d or older, found 99"):
        PostgresStore(database.url, tmp_path / "third")


def test_what_cannot_be_reached_is_said_in_one_line_and_without_a_password(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"^postgresql://127\.0\.0\.1:1/db: the database cannot be reached") as caught:
        PostgresStore("postgresql://me:secret@127.0.0.1:1/db", tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="store: expected postgresql://USER@HOST/DATABASE"):
        PostgresStore("postgresql://[", tmp_path)


def test_windows_of_traffic_are_stored_by_life_and_forgotten_when_long_over(
    one: PostgresStore, other: PostgresStore
) -> None:
    now = int(time.time() / 60)
    rows = [profiled.window(now - 1, profiled.EVEN), profiled.window(now, profiled.SHIFTED)]
    one.save_windows("a", rows)
    one.save_windows("a", rows[:1])
    other.save_windows("b", rows[1:])
    assert other.windows("m", 1) == [rows[0], rows[1], rows[1]]
    assert one.windows("m", 2) == []
    one.save_windows("a", [profiled.window(now - KEPT_WINDOWS - 1, profiled.EVEN)])
    assert one.windows("m", 1) == [rows[0], rows[1], rows[1]]
