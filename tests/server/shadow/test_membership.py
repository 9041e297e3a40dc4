"""Membership: which rows lie in a segment, and segments that are none of the model's."""

from __future__ import annotations

import numpy as np
import pytest

from gnomon_server.errors import LoadError
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.membership import Membership

SIGNATURE = Signature(
    (
        TensorSpec("carrier", "BYTES", (-1, 1)),
        TensorSpec("distance", "FP32", (-1,)),
        TensorSpec("x", "INT64", (-1, 3)),
        TensorSpec("delayed", "BOOL", (-1,)),
    ),
    (),
)
INPUTS = {
    "carrier": np.array([["HA"], ["AA"], ["HA"], ["HA"]], object),
    "distance": np.array([2500, 2500, 100, np.nan], np.float32),
    "x": np.array([[1, 2, 3], [1, 2, 4], [0, 0, 3], [9, 9, 9]]),
    "delayed": np.array([True, False, True, False]),
}


@pytest.mark.parametrize(
    ("segment", "held"),
    [
        ("carrier = 'HA'", [1, 0, 1, 1]),
        ("carrier = 'HA' and distance > 2300", [1, 0, 0, 0]),
        ("distance <= 100", [0, 0, 1, 0]),
        ("x[2] = 3", [1, 0, 1, 0]),
        ("delayed = false and carrier != 'HA'", [0, 1, 0, 0]),
    ],
)
def test_a_row_lies_in_a_segment_where_all_conditions_hold(segment: str, held: list[int]) -> None:
    assert Membership([segment], SIGNATURE).of(INPUTS, 4, True)[segment].tolist() == [bool(one) for one in held]


def test_a_row_without_the_input_lies_in_no_segment_of_it() -> None:
    found = Membership(["carrier != 'HA'"], SIGNATURE).of({"x": INPUTS["x"]}, 4, True)
    assert not found["carrier != 'HA'"].any()


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ("airline = 'HA'", r"expected one of the inputs \['carrier', 'distance', 'x', 'delayed'\], received 'airline'"),
        ("carrier = 7", "input 'carrier' of BYTES: expected a 'text', received 7"),
        ("distance = 'far'", "input 'distance' of FP32: expected a number, received far"),
        ("delayed = 1", "input 'delayed' of BOOL: expected true or false, received 1"),
        ("x = 1", r"input 'x' of shape \[-1, 3\]: expected a column, x\[0\]"),
        ("x[3] = 1", "input 'x': expected a column from 0 to 2, received 3"),
    ],
)
def test_a_segment_of_other_inputs_is_refused(segment: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        Membership([segment], SIGNATURE)
