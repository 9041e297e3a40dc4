"""What h2load prints and logs is read as it is meant."""

from __future__ import annotations

import pytest
from generators import finished, percentiles

PRINTED = """
finished in {time}, 8833.00 req/s, 1.07MB/s
requests: 17666 total, 17667 started, 17666 done, {good} succeeded, 0 failed, 0 errored, 0 timeout
status codes: 17666 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 2.14MB (2242304) total, 51.75KB (52992) headers (space savings 96.25%), 1.40MB ({data}) data
"""
ANSWER = 78
FRAMED = 17666 * (ANSWER + 5)


@pytest.mark.parametrize(("time", "seconds"), [("2.00s", 2.0), ("500.25ms", 0.50025)])
def test_requests_and_seconds_are_read(time: str, seconds: float) -> None:
    text = PRINTED.format(time=time, good=17666, data=FRAMED)
    requests, read = finished(text, ANSWER)
    assert requests == 17666
    assert read == pytest.approx(seconds)


@pytest.mark.parametrize(("good", "data"), [(17665, FRAMED), (17666, FRAMED - 1)])
def test_a_failed_request_and_an_answer_without_a_message_are_errors(good: int, data: int) -> None:
    with pytest.raises(RuntimeError, match=f"expected 17666 answers in {FRAMED} bytes, received {good} in {data}"):
        finished(PRINTED.format(time="2.00s", good=good, data=data), ANSWER)


def test_nothing_finished_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no result"):
        finished("could not connect", ANSWER)


def test_percentiles_are_of_the_third_column() -> None:
    log = "".join(f"{1795656580014444 + n}\t200\t{n}\n" for n in range(101))
    assert percentiles(log.encode()) == (50, 99)
