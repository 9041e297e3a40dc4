from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.shadow.fakes import ADDER, Adder, on_the_wire, record_of

from gnomon_protos.tensors import Array
from gnomon_server.control.comparison import merged
from gnomon_server.models import overrides
from gnomon_server.models.manifest import Decision
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import MirrorSettings, OutputSettings
from gnomon_server.shadow.decisions import Decider, Flips, decider
from gnomon_server.shadow.pipeline import Pipeline
from gnomon_server.wire.histogram import DIVERGENCE_BOUNDS, empty
from gnomon_server.wire.tallies import FlipTally, OutputTally

NAN = float("nan")
LOAN = Decision((0.3, 0.7), ("deny", "ask", "approve"), "", {("deny", "approve"): 50.0, ("approve", "deny"): 3.0})


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_a_score_at_a_threshold_has_reached_it() -> None:
    scores = np.array([-np.inf, 0.29, 0.3, 0.69, 0.7, np.inf, NAN])
    assert Decider(LOAN, -1).decide(scores).tolist() == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("spec", "score", "expected"),
    [
        (TensorSpec("p", "FP32", (-1, 2)), "", 1),
        (TensorSpec("p", "FP32", (-1, 2), classes=("late", "early")), "late", 0),
        (TensorSpec("p", "FP32", (-1, 2)), "0", 0),
        (TensorSpec("p", "FP32", (-1, -1)), "0", 0),
    ],
)
def test_the_score_is_a_class_a_column_or_else_the_last_column(spec: TensorSpec, score: str, expected: int) -> None:
    rows = np.array([[0.1, 0.9]], np.float32)
    decided = decider(Decision((0.5,), ("low", "high"), score), spec, "").decide(rows)
    assert decided.tolist() == [expected]


def test_a_column_that_is_not_there_decides_nothing() -> None:
    wide = TensorSpec("p", "FP32", (-1, -1))
    assert decider(Decision((0.5,), ("low", "high"), "5"), wide, "").decide(np.ones((2, 2))).tolist() == [2, 2]


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=30))
def test_flips_are_counted_by_direction_with_their_costs(pairs: list[tuple[float, float]]) -> None:
    def decide(score: float) -> str:
        return "undecided" if np.isnan(score) else "approve" if score >= 0.7 else "ask" if score >= 0.3 else "deny"

    counted = Flips(LOAN)
    rule = Decider(LOAN, -1)
    for part in (pairs[:7], pairs[7:]):
        sides = [np.array([pair[side] for pair in part], np.float64) for side in (0, 1)]
        counted.add(rule.decide(sides[0]), rule.decide(sides[1]))
    expected: dict[tuple[str, str], int] = {}
    for primary, shadow in pairs:
        flip = (decide(primary), decide(shadow))
        if flip[0] != flip[1]:
            expected[flip] = expected.get(flip, 0) + 1
    assert {(flip.before, flip.after): flip.rows for flip in counted.snapshot()} == expected
    for found in counted.snapshot():
        assert found.cost == found.rows * LOAN.costs.get((found.before, found.after), 0.0)


def test_flips_of_several_workers_add_up() -> None:
    def tally(*flips: FlipTally) -> OutputTally:
        return OutputTally("p", "decision", 0.0, 1, 0, 0.0, 0.0, empty(DIVERGENCE_BOUNDS), flips, 1)

    (both,) = merged(
        [tally(FlipTally("a", "b", 1, 5.0)), tally(FlipTally("a", "b", 2, 10.0), FlipTally("b", "a", 1, 0.0))]
    )
    assert both.flips == (FlipTally("a", "b", 3, 15.0), FlipTally("b", "a", 1, 0.0))
    assert both.unfit == 2


async def worked(shadow: Adder, sums: Array, comparator: str, executor: ThreadPoolExecutor) -> OutputTally:
    """Returns what the settings make of a shadow that answers the rows (0, x) beside a primary that gave `sums`."""
    outputs = {"sum": OutputSettings(comparator, thresholds=(0.5,), decisions=("no", "yes"), costs={"yes -> no": 7})}
    shadow.comparisons = overrides.comparisons(outputs)
    pipeline = Pipeline(shadow, MirrorSettings(), "", executor)
    x = np.stack([np.zeros(3, np.float32), np.array([0, 1, 2], np.float32)], axis=1)
    record = record_of({"x": x}, {"sum": sums})
    pipeline.take(record, len(on_the_wire(record)))
    await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
    (pair,) = pipeline.report("epoch").pairs
    return pair.outputs[0]


async def test_a_shadow_that_decides_otherwise_disagrees(executor: ThreadPoolExecutor) -> None:
    tally = await worked(Adder(), np.array([0.1, 0.2, 9], np.float32), "decision", executor)
    assert (tally.rows, tally.disagreements, tally.flips) == (3, 1, (FlipTally("no", "yes", 1, 0),))
    tally = await worked(Adder(bias=-1), np.array([0, 1, NAN], np.float32), "decision", executor)
    assert set(tally.flips) == {FlipTally("yes", "no", 1, 7), FlipTally("undecided", "yes", 1, 0)}
    assert tally.unfit == 1


async def test_decisions_are_counted_beside_any_other_comparator(executor: ThreadPoolExecutor) -> None:
    tally = await worked(Adder(bias=0.2), np.array([0, 1, 2], np.float32), "isclose", executor)
    assert (tally.disagreements, tally.flips) == (3, ())


async def test_a_shadow_that_answers_in_another_shape_decides_nothing(executor: ThreadPoolExecutor) -> None:
    column = Signature(ADDER.inputs, (TensorSpec("sum", "FP32", (-1, 1)),))
    tally = await worked(Adder(signature=column), np.array([[0], [1], [2]], np.float32), "decision", executor)
    assert tally.disagreements == 3
    assert set(tally.flips) == {FlipTally("no", "undecided", 1, 0), FlipTally("yes", "undecided", 2, 0)}
