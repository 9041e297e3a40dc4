"""What labels of an output are, and what a decision loses by them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.errors import InvalidRequest, LoadError
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import FeedbackSettings
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.truth import Truth, truth

X = TensorSpec("x", "FP32", (-1, 3))


def of(*outputs: TensorSpec, settings: FeedbackSettings = FeedbackSettings()) -> Truth:  # noqa: B008 - it is frozen
    signature = Signature((X,), outputs)
    return truth("m", signature, choose(signature, ()), settings)


def test_the_one_output_of_labels_is_what_labels_are_about() -> None:
    found = of(TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2)))
    assert (found.output, found.loss) == ("label", "label")
    decided, labels = found.decided(np.array([["a"], ["b"]], object)), found.read(("a", "a"))
    assert decided is not None
    assert found.losses(decided, labels).tolist() == [0, 1]


def test_the_greatest_probability_is_a_decision_for_its_class() -> None:
    found = of(TensorSpec("probabilities", "FP32", (-1, 3), classes=("low", "mid", "high")))
    decided = found.decided(np.array([[0.1, 0.2, 0.7], [np.nan, 0.6, 0.4]], np.float32))
    assert decided is not None
    assert decided.tolist() == ["high", "mid"]
    assert found.decided(np.zeros((2, 2), np.float32)) is None
    with pytest.raises(InvalidRequest, match=r"output 'probabilities': expected one of \['low', .*, received 'huge'"):
        found.read(("huge",))
    without = of(TensorSpec("probabilities", "FP32", (-1, 3)))
    decided = without.decided(np.array([[0.1, 0.2, 0.7]], np.float32))
    assert decided is not None
    assert without.losses(decided, without.read(("2",))).tolist() == [0]


def test_labels_of_truth_values_may_be_said_in_either_way() -> None:
    found = of(TensorSpec("label", "BOOL", (-1,)))
    decided = found.decided(np.array([True, False]))
    assert decided is not None
    assert found.losses(decided, found.read(("True", "0"))).tolist() == [0, 0]


def test_an_output_without_one_decision_a_row_must_be_named() -> None:
    two = (TensorSpec("a", "INT64", (-1,)), TensorSpec("b", "INT64", (-1,)))
    with pytest.raises(LoadError, match=r"\[models.m.feedback\] output: expected the one of \['a', 'b'\]"):
        of(*two)
    assert of(*two, settings=FeedbackSettings(output="b")).output == "b"
    with pytest.raises(LoadError, match=r"expected one of .*, received 'c'"):
        of(*two, settings=FeedbackSettings(output="c"))
    with pytest.raises(LoadError, match=r"expected one decision a row, 'mask' has shape \[-1, 4\]"):
        of(TensorSpec("mask", "INT64", (-1, 4)), settings=FeedbackSettings(output="mask"))
    with pytest.raises(LoadError, match="scale: expected how far output 'price' can be off at most"):
        of(TensorSpec("price", "FP32", (-1, 1)))


@pytest.mark.parametrize("loss", ["absolute", "squared"])
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100))
def test_losses_differ_by_no_more_than_is_said_without_the_truth(loss: str, one: float, other: float, y: float) -> None:
    settings = FeedbackSettings(loss="squared" if loss == "squared" else "absolute", scale=10.0)
    found = of(TensorSpec("price", "FP64", (-1,)), settings=settings)
    primary, shadow, labels = (np.array([value]) for value in (one, other, y))
    losses = [found.losses(side, labels) for side in (primary, shadow)]
    assert all(0 <= side <= 1 for side in losses)
    assert abs(losses[1] - losses[0]) <= found.spread(primary, shadow) + 1e-12
