"""Which tensors of an ONNX file have no shape."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx_models as models
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper as h

from gnomon_server.models.ranks import unranked

SHAPES = st.one_of(st.none(), st.lists(st.one_of(st.integers(0, 3), st.just("free"), st.none()), max_size=3))
SPECS = st.lists(st.tuples(SHAPES, st.booleans()), min_size=1, max_size=4)


def graph(specs: list[tuple[list[int | str | None] | None, bool]]) -> onnx.GraphProto:
    """Identities of these shapes; `True` gives an input a default value, which stands in the file before the inputs."""
    values = [h.make_tensor_value_info(f"x{number}", models.FLOAT, shape) for number, (shape, _) in enumerate(specs)]
    return h.make_graph(
        [h.make_node("Identity", [f"x{number}"], [f"y{number}"]) for number in range(len(specs))],
        "identities",
        values,
        [h.make_tensor_value_info(f"y{number}", models.FLOAT, shape) for number, (shape, _) in enumerate(specs)],
        [
            onnx.numpy_helper.from_array(np.ones(2, np.float32), f"x{number}")
            for number, (_, given) in enumerate(specs)
            if given
        ],
    )


@given(SPECS)
def test_a_tensor_without_a_shape_is_told_from_a_scalar(
    specs: list[tuple[list[int | str | None] | None, bool]],
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(h.make_model(graph(specs)), path)
        missing = {number for number, (shape, _) in enumerate(specs) if shape is None}
        assert unranked(path) == {f"{side}{number}" for number in missing for side in "xy"}


@given(st.binary(max_size=200))
def test_a_file_that_is_no_model_has_none(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(data)
        assert isinstance(unranked(path), frozenset)
