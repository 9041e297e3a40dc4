"""The plan: every server meets every load of its suites, in an order that turns round."""

from __future__ import annotations

import contenders
import pytest
from contenders import Contender
from plan import CLOSED, SUITES, Load, rounds, tasks

PEER = Contender("peer", lambda _: ())


def test_peers_take_part_where_servers_are_compared() -> None:
    plan = tasks(list(SUITES), ["logreg", "mlp"], [PEER])
    assert {(task.suite, task.model) for task in plan if task.contender is PEER} == {
        ("closed", "logreg"),
        ("closed", "mlp"),
    }
    assert {task.contender for task in plan if task.suite == "closed"} == {*SUITES["closed"].contenders, PEER}


def test_a_suite_of_certain_models_is_run_with_those_that_were_asked_for() -> None:
    assert {task.model for task in tasks(["frontends"], ["mlp", "transformer"], [])} == {"transformer"}
    assert not tasks(["telemetry"], ["mlp"], [])


def test_every_other_round_goes_backwards() -> None:
    plan = tasks(["paced"], ["logreg"], [])
    order = [(number, task.contender) for number, task in rounds(plan, range(3))]
    there = [contenders.GNOMON, contenders.EQUAL, contenders.HEAVY]
    assert order == [*((0, one) for one in there), *((1, one) for one in there[::-1]), *((2, one) for one in there)]


def test_loads_have_the_calls_in_flight_that_are_reported() -> None:
    assert [load.in_flight for load in CLOSED] == [1, 8, 32, 64]


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (Load(4, 8), "4 x 8"),
        (Load(8, 0, pace=0.4), "8, 40% of capacity"),
        (Load(100, 1, idle=4900), "100 x 1, 4,900 idle"),
    ],
)
def test_a_load_says_what_it_is(load: Load, text: str) -> None:
    assert str(load) == text
