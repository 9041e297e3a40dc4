"""Zero-loss switching: what benchmarks/zero_loss.py does a thousand times, often enough to notice."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import switching
from servers import ServerProcess
from switching import Seen, Timeline


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with switching.serve(tmp_path_factory.mktemp("switching")) as running:
        yield running


def test_no_request_fails_and_no_version_answers_that_is_not_the_primary(server: ServerProcess) -> None:
    senders, timeline = switching.switched_under_load(server, switches=40, threads=4)
    assert senders.failures == []
    assert senders.strays(timeline) == []
    assert {one.named for one in senders.seen} == {1, 2}
    assert switching.verified(server.state) >= 41


def test_control_killed_in_the_middle_of_a_change_leaves_the_old_route_or_the_new(server: ServerProcess) -> None:
    dice = random.Random(1)
    for _ in range(3):
        switching.kill_control(server, dice)


def test_a_frontend_killed_in_the_middle_of_changes_comes_back_to_the_newest_route(server: ServerProcess) -> None:
    dice = random.Random(2)
    for _ in range(2):
        switching.kill_frontend(server, dice)


def test_the_timeline_allows_both_versions_while_a_change_is_under_way_and_one_before_and_after() -> None:
    timeline = Timeline(1)
    timeline._begins += [10.0, 20.0]
    timeline._ends += [11.0, 21.0]
    timeline._versions += [2, 1]
    for sent, received, versions in (
        (5.0, 9.0, {1}),
        (5.0, 10.5, {1, 2}),
        (10.9, 15.0, {1, 2}),
        (11.5, 19.0, {2}),
        (12.0, 20.5, {2, 1}),
        (22.0, 23.0, {1}),
    ):
        assert timeline.allowed(sent, received) == versions, (sent, received)


def test_an_answer_of_another_version_or_under_another_name_is_noticed() -> None:
    timeline = Timeline(1)
    timeline.changes(2)
    timeline.changed()
    end = timeline._ends[0]
    senders = switching.Senders("127.0.0.1:1", 0)
    fine, late, mixed = Seen(0.0, 1.0, 1, 1), Seen(end + 1, end + 2, 1, 1), Seen(end + 1, end + 2, 2, 1)
    senders.seen = [fine, late, mixed]
    assert senders.strays(timeline) == [late, mixed]
