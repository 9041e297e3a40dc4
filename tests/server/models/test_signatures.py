"""What a signature says of shapes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.models.signature import Signature, TensorSpec

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@given(SHAPES)
def test_a_shape_accepts_itself_and_every_free_form_of_it(shape: tuple[int, ...]) -> None:
    assert TensorSpec("x", "FP32", shape).accepts(shape)
    assert TensorSpec("x", "FP32", (-1,) * len(shape)).accepts(shape)
    assert not TensorSpec("x", "FP32", (*shape, -1)).accepts(shape)


@pytest.mark.parametrize("shape", [(2, 4), (2,), (2, 3, 1), (-1, 3), (2, -1)])
def test_another_dimension_another_rank_or_a_free_one_is_not_accepted(shape: tuple[int, ...]) -> None:
    assert not TensorSpec("x", "FP32", (-1, 3)).accepts(shape)


@pytest.mark.parametrize(
    ("inputs", "outputs", "batched"),
    [
        ([(-1, 3)], [(-1,)], True),
        ([(-1, 3), (-1,)], [(-1, 2)], True),
        ([(-1, 3), (3,)], [(-1,)], False),
        ([(-1, 3)], [()], False),
        ([()], [()], False),
        ([(2, -1)], [(2, -1)], False),
    ],
)
def test_batched_means_that_everything_begins_with_a_free_dimension(
    inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], batched: bool
) -> None:
    made = Signature(
        tuple(TensorSpec(f"x{number}", "FP32", shape) for number, shape in enumerate(inputs)),
        tuple(TensorSpec(f"y{number}", "FP32", shape) for number, shape in enumerate(outputs)),
    )
    assert made.batched is batched
    assert list(made.input_specs) == [f"x{number}" for number in range(len(inputs))]
    assert made.output_names == tuple(f"y{number}" for number in range(len(outputs)))


@given(SHAPES)
def test_a_tensor_of_unknown_rank_accepts_every_complete_shape(shape: tuple[int, ...]) -> None:
    spec = TensorSpec("x", "FP32", (), ranked=False)
    assert spec.accepts(shape)
    assert not spec.accepts((*shape, -1))
