from __future__ import annotations

from gnomon_server.control.comparison import Pair
from gnomon_server.control.differences import PAIRS, Differences
from gnomon_server.settings import Settings
from gnomon_server.wire.histogram import DURATION_BOUNDS, empty
from gnomon_server.wire.messages import WorkerReport
from gnomon_server.wire.tallies import KeptRequest, KeptTensor, PairTally, SegmentFound, SegmentSearch

NOW = 1_700_000_000_000_000_000
RUNS = empty(DURATION_BOUNDS)
PAIR = Pair("churn", 1, 2)


def kept(priority: int, age: float = 0, size: int = 10, primary: int = 1) -> KeptRequest:
    tensor = KeptTensor("x", "UINT8", (size,), bytes(size))
    moment = NOW - int(age * 1e9)
    return KeptRequest(primary, priority, priority.to_bytes(16, "big"), moment, (("p", 0.5),), 1, (tensor,), (), ())


def report(requests: list[KeptRequest], searches: tuple[SegmentSearch, ...] = (), model: str = "churn") -> WorkerReport:
    tally = PairTally(model, 1, 2, 1, 0, 0, 0, 0, 0.0, 1, (), RUNS, RUNS)
    return WorkerReport("epoch", (tally,), (), (), 0, (), 0, tuple(requests), searches)


def differences(clock: list[int] | None = None, **compare: object) -> Differences:
    moments = clock or [NOW]
    return Differences(Settings(models={"churn": {"compare": compare}}), lambda: moments[0])


def priorities(found: Differences, pair: Pair = PAIR) -> list[int]:
    return sorted(int(request.trace_id, 16) for request in found.requests(pair))


def test_the_requests_of_the_lowest_priorities_are_kept() -> None:
    found = differences(keep=3)
    found.worker_reported(report([kept(priority) for priority in (5, 1, 9)]))
    found.worker_reported(report([kept(priority) for priority in (7, 2)]))
    assert priorities(found) == [1, 2, 5]


def test_requests_are_kept_within_their_bytes_and_their_age() -> None:
    clock = [NOW]
    found = differences(clock, keep_bytes=1024, keep_seconds=60)
    found.worker_reported(report([kept(1, size=1000), kept(2, size=100), kept(3, size=24), kept(4, age=61, size=1)]))
    assert priorities(found) == [1, 3]
    clock[0] += 61 * 10**9
    assert priorities(found) == []


def test_the_newest_request_is_shown_first() -> None:
    found = differences()
    found.worker_reported(report([kept(1, age=5), kept(2, age=1), kept(3, age=9)]))
    shown = found.requests(PAIR, 2)
    assert [int(request.trace_id, 16) for request in shown] == [2, 1]
    assert shown[0].time == "2023-11-14T22:13:19.000Z"
    assert (shown[0].primary, shown[0].shadow, dict(shown[0].divergences)) == (1, 2, {"p": 0.5})
    assert (shown[0].inputs[0].tensor.raw, shown[0].inputs[0].withheld) == (bytes(10), False)


def test_each_primary_has_its_own() -> None:
    found = differences()
    found.worker_reported(report([kept(1), kept(2, primary=3)]))
    assert priorities(found) == [1]
    assert priorities(found, Pair("churn", 3, 2)) == [2]
    assert priorities(found, Pair("churn", 4, 2)) == []


def test_the_newest_search_is_what_is_known() -> None:
    found = differences()
    assert found.segments(PAIR) is None
    segment = SegmentFound(("x >= 1", "y = 2"), 0.05, 0.7, 0.9, 0.01, 1e-9, (bytes(15) + b"\x07",))
    found.worker_reported(report([], (SegmentSearch(1, 1000, 50, ()),)))
    found.worker_reported(report([], (SegmentSearch(1, 2000, 100, (segment,)),)))
    found.worker_reported(report([]))
    shown = found.segments(PAIR)
    assert shown is not None
    assert (shown.rows, shown.disagreeing) == (2000, 100)
    assert list(shown.segments[0].conditions) == ["x >= 1", "y = 2"]
    assert shown.segments[0].trace_ids == ["0" * 31 + "7"]


def test_pairs_that_were_not_heard_of_for_long_are_forgotten() -> None:
    found = differences()
    for number in range(PAIRS + 1):
        found.worker_reported(report([kept(1)], model=f"m{number}"))
    assert priorities(found, Pair("m0", 1, 2)) == []
    assert priorities(found, Pair("m1", 1, 2)) == [1]
