from __future__ import annotations

import numpy as np
import pytest

from gnomon_protos.tensors import Array
from gnomon_server.shadow.ties import tied

SURE = np.array([[0.9, 0.1]], np.float32)
TORN = np.array([[0.5, 0.5 + 4e-7]], np.float32)
CLASSES = {"no": 0, "yes": 1}


def text(*values: str) -> Array:
    return np.array(values, object)


@pytest.mark.parametrize(
    ("labels", "probabilities", "classes", "expected"),
    [
        # In the primary's probabilities, or in the shadow's, or in neither.
        ((np.array([0]), np.array([1])), (TORN, SURE), {}, True),
        ((np.array([0]), np.array([1])), (SURE, TORN), {}, True),
        ((np.array([0]), np.array([1])), (SURE, SURE), {}, False),
        # The client did not ask for the primary's.
        ((np.array([0]), np.array([1])), (None, TORN), {}, True),
        ((np.array([0]), np.array([1])), (None, None), {}, False),
        ((np.array([[0]]), np.array([[1]])), (TORN, SURE), {}, True),
        ((np.array([False]), np.array([True])), (TORN, SURE), {}, True),
        ((text("no"), text("yes")), (TORN, SURE), CLASSES, True),
        # Classes by name, whatever the labels' datatype.
        ((np.array([10]), np.array([20])), (TORN, SURE), {"10": 0, "20": 1}, True),
        # Labels without a column.
        ((text("no"), text("maybe")), (TORN, TORN), CLASSES, False),
        ((text("no"), text("yes")), (TORN, TORN), {}, False),
        ((np.array([0]), np.array([2])), (TORN, TORN), {}, False),
        ((np.array([-1]), np.array([1])), (TORN, TORN), {}, False),
        ((np.array([0.0]), np.array([1.0])), (TORN, TORN), {}, False),
        # No class probabilities.
        ((np.array([0]), np.array([1])), (np.array([0.5]), np.array([1, 1])), {}, False),
        ((np.array([0]), np.array([1])), (np.array([[np.nan, np.nan]]), np.array([[np.inf, np.inf]])), {}, False),
    ],
)
def test_labels_tie_where_either_side_finds_both_classes_equally_likely(
    labels: tuple[Array, Array],
    probabilities: tuple[Array | None, Array | None],
    classes: dict[str, int],
    expected: bool,
) -> None:
    assert tied(labels, probabilities, classes, 1e-6).tolist() == [expected]


def test_each_row_ties_by_its_own_probabilities() -> None:
    labels = (np.array([0, 0, 1]), np.array([1, 1, 0]))
    both = np.vstack([TORN, SURE, TORN])
    assert tied(labels, (both, None), {}, 1e-6).tolist() == [True, False, True]
