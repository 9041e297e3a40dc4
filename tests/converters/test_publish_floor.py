"""What arithmetic alone does to an answer is measured at conversion, and no comparison makes anything of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from sklearn.linear_model import Ridge

from gnomon_converters import floor, publish
from gnomon_converters.frameworks import Expected, Original
from gnomon_converters.verification import OutputAgreement, verify
from gnomon_protos import manifest_pb2
from gnomon_server.models import manifest
from gnomon_server.shadow.comparators import divergence

LABEL = Expected("label", "label", np.array([0, 1]), ("a", "b"))
LIKELY = Expected("p", "probabilities", np.array([[0.6, 0.4], [0.3, 0.7]]))
VALUE = Expected("y", "value", np.array([1.0, 2.0]))


def measured(output: Expected, native: float, batch: float) -> OutputAgreement:
    return OutputAgreement(output.name, output.meaning, native, 1.0, 0, batch_difference=batch)


def compared(output: Expected, native: float, batch: float) -> manifest_pb2.Comparison:
    agreement = {LABEL.name: measured(LABEL, 0, 0)} | {o.name: measured(o, native, batch) for o in (LIKELY, VALUE)}
    return floor.comparison(output, Original((LABEL, LIKELY, VALUE), {}), agreement)


@pytest.mark.parametrize(
    ("native", "batch", "tie"),
    # The least that a tie is; both may move; what no arithmetic explains makes no ties.
    [(1e-8, 1e-9, 1e-6), (2e-6, 1e-6, 6e-6), (0.3, 0.0, 2e-4)],
)
def test_classes_tie_that_arithmetic_may_swap(native: float, batch: float, tie: float) -> None:
    found = compared(LABEL, native, batch)
    assert (found.comparator, found.probabilities) == ("label", "p")
    assert found.parameters["tie_eps"] == pytest.approx(tie)


def test_probabilities_have_a_floor(tmp_path: Path) -> None:
    assert compared(LIKELY, 2e-6, 1e-6).floor == pytest.approx(3e-6)
    assert compared(LIKELY, 0.3, 0.0).floor == 1e-4


def test_values_may_differ_by_what_was_measured() -> None:
    assert dict(compared(VALUE, 1e-9, 0.0).parameters) == {"rtol": 1e-3, "atol": 1e-6}
    assert compared(VALUE, 0.004, 0.001).parameters["atol"] == pytest.approx(0.005)


def test_a_row_alone_is_measured_against_the_same_row_in_a_batch() -> None:
    received = {"y": np.array([1.0, 2.0, 5.0], np.float32)}
    original = Original((Expected("y", "value", received["y"]),), {})
    (found,) = verify(original, received, None, {"y": np.array([1.0, 2.25], np.float32)}).outputs
    assert found.batch_difference == 0.25
    (found,) = verify(original, received, None).outputs
    assert found.batch_difference == 0


def test_two_conversions_of_one_model_agree_near_0_too(tmp_path: Path) -> None:
    # The result is near 0 beside the terms that it is the difference of, so that float32 leaves little of it.
    generator = np.random.default_rng(0)
    x = generator.normal(1e4, 1, (500, 2)).astype(np.float32)
    y = x[:, 0] - x[:, 1]
    done = publish(Ridge(1e-9).fit(x, y), name="m", repository=tmp_path, sample=x, tolerance=0.1)
    written = json_format.Parse((done.folder / "manifest.json").read_text(), manifest_pb2.Manifest())
    noise = done.verification.outputs[0].max_difference
    assert noise > 1e-4
    (comparison,) = manifest.read(done.folder).comparisons
    assert comparison.parameters["atol"] == written.comparisons[0].parameters["atol"] >= noise
    moved = np.array([0.0]), np.array([noise])
    assert divergence(comparison.comparator, *moved, comparison.parameters) == [0]
    assert divergence(comparison.comparator, *moved, {}) == [1]
