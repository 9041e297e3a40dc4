"""The models that benchmarks serve do what the comparison rests on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from models import INPUT, MODELS, repeated
from peers import configuration
from workload import prepare

from gnomon_protos.tensors import Array


def run(model: onnx.ModelProto, rows: Array) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {INPUT: rows}), strict=True))


@pytest.mark.parametrize("name", ["logreg", "mlp", "transformer"])
def test_versions_differ_a_little_and_a_heavy_one_answers_like_the_first(name: str) -> None:
    first, second = MODELS[name](0), MODELS[name](1)
    one, other = run(first.file, first.rows)["probabilities"], run(second.file, first.rows)["probabilities"]
    assert not np.array_equal(one, other)
    assert np.abs(one - other).mean() < 0.1
    heavy = run(repeated(first.file, 10), first.rows)
    np.testing.assert_allclose(heavy["probabilities"], one, atol=1e-4)


def test_a_heavy_version_does_the_work_as_often_as_it_is_said_to(tmp_path: Path) -> None:
    model = MODELS["mlp"](0).file
    heavy = repeated(model, 10)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(heavy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = onnx.load(options.optimized_model_filepath).graph.node
    # Each layer is one node after fusion; what were computed once for all would be missing.
    products = [node for node in left if node.op_type in {"MatMul", "Gemm", "FusedGemm", "FusedMatMul"}]
    assert len(products) == 10 * sum(node.op_type == "MatMul" for node in model.graph.node)


def test_a_triton_configuration_spells_out_what_batching_takes_away(tmp_path: Path) -> None:
    work = prepare("logreg", tmp_path)
    batched, single = configuration(work, batching=True), configuration(work, batching=False)
    assert 'input { name: "input" data_type: TYPE_FP32 dims: [30] }' in batched
    assert 'output { name: "label" data_type: TYPE_INT64 dims: [1] reshape { shape: [ ] } }' in batched
    assert "dynamic_batching { }" in batched
    assert 'input { name: "input" data_type: TYPE_FP32 dims: [-1, 30] }' in single
    assert 'output { name: "label" data_type: TYPE_INT64 dims: [-1] }' in single
    assert "max_batch_size: 0" in single
    assert "dynamic_batching" not in single
