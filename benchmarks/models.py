"""The models: each a function of a seed that returns an ONNX file and the rows to send."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, compose, numpy_helper
from onnx import helper as h

from gnomon_protos.tensors import Array

ROWS: Final = 64
# Of the transformer: tokens, width, heads, layers, width of the feed-forward part.
TOKENS, WIDTH, HEADS, LAYERS, INNER = 32, 128, 4, 2, 512
IR: Final = 9
OPSET: Final = 17
INPUT: Final = "input"


@dataclass(frozen=True)
class Network:
    """What is served: inputs have the free batch dimension first, and rows are independent."""

    file: onnx.ModelProto
    # One request each.
    rows: Array


def logreg(seed: int) -> Network:
    """Scaler and logistic regression on 30 numbers."""
    from sklearn.linear_model import LogisticRegression

    return _trained(LogisticRegression(max_iter=1000), seed)


def boosting(seed: int) -> Network:
    """Scaler and 100 boosted trees on 30 numbers."""
    from sklearn.ensemble import GradientBoostingClassifier

    return _trained(GradientBoostingClassifier(n_estimators=100), seed)


def mlp(seed: int) -> Network:
    """784 numbers, two hidden layers of 512, ten classes; the weights are random."""
    graph, values = _Graph(seed), INPUT
    for width, following in ((784, 512), (512, 512)):
        values = graph.add("Relu", graph.linear(values, width, following))
    graph.add("Softmax", graph.linear(values, 512, 10), name="probabilities", axis=-1)
    return Network(graph.model([784], [10]), _noise((ROWS, 784)))


def transformer(seed: int) -> Network:
    """An encoder of two layers on 32 tokens of 128 numbers, ten classes; the weights are random."""
    graph, values = _Graph(seed), INPUT
    for _ in range(LAYERS):
        values = graph.normal(graph.add("Add", values, graph.attention(values)))
        inner = graph.add("Relu", graph.linear(values, WIDTH, INNER))
        values = graph.normal(graph.add("Add", values, graph.linear(inner, INNER, WIDTH)))
    pooled = graph.add("ReduceMean", values, axes=[1], keepdims=0)
    graph.add("Softmax", graph.linear(pooled, WIDTH, 10), name="probabilities", axis=-1)
    return Network(graph.model([TOKENS, WIDTH], [10]), _noise((ROWS, TOKENS, WIDTH)))


# To add a model: a function as above, and a line here.
MODELS: Final[Mapping[str, Callable[[int], Network]]] = {
    "logreg": logreg,
    "boosting": boosting,
    "mlp": mlp,
    "transformer": transformer,
}


def repeated(model: onnx.ModelProto, times: int) -> onnx.ModelProto:
    """Returns a model that does the work of another several times and answers with the mean of its FP32 outputs.

    Each part gets the input scaled by another factor, a hair from 1: equal parts would be computed once only.
    """
    parts = [compose.add_prefix(model, f"part{number}_") for number in range(times)]
    nodes, constants = [], []
    for number, part in enumerate(parts):
        constants.append(numpy_helper.from_array(np.float32(1 + number * 1e-6), f"factor{number}"))
        nodes.append(h.make_node("Mul", [INPUT, f"factor{number}"], [part.graph.input[0].name]))
        nodes.extend(part.graph.node)
        constants.extend(part.graph.initializer)
    for output in model.graph.output:
        names = [f"part{number}_{output.name}" for number in range(times)]
        averaged = output.type.tensor_type.elem_type == TensorProto.FLOAT
        nodes.append(h.make_node("Mean" if averaged else "Identity", names if averaged else names[:1], [output.name]))
    graph = h.make_graph(nodes, "repeated", model.graph.input, model.graph.output, constants)
    return h.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


class _Graph:
    """A graph under construction; names are made up as it grows."""

    def __init__(self, seed: int) -> None:
        # Versions differ a little, as two trainings of one architecture do.
        self._random, self._other = np.random.default_rng(0), np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._names: Iterator[str] = (f"value{number}" for number in range(1_000_000))

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        output = name or next(self._names)
        self._nodes.append(h.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: Array) -> str:
        """Adds a constant; returns its name."""
        name = next(self._names)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, values: str, width: int, following: int) -> str:
        """Adds x W + b."""
        scale = width**-0.5
        weights = self._random.normal(0, scale, (width, following)) + self._other.normal(
            0, scale / 100, (width, following)
        )
        product = self.add("MatMul", values, self.constant(weights.astype(np.float32)))
        return self.add("Add", product, self.constant(np.zeros(following, np.float32)))

    def normal(self, values: str) -> str:
        """Adds a layer normalisation."""
        ones, zeros = self.constant(np.ones(WIDTH, np.float32)), self.constant(np.zeros(WIDTH, np.float32))
        return self.add("LayerNormalization", values, ones, zeros, axis=-1)

    def attention(self, values: str) -> str:
        """Adds self-attention with its projections."""
        split = self.constant(np.array([0, TOKENS, HEADS, WIDTH // HEADS]))
        joined = self.constant(np.array([0, TOKENS, WIDTH]))

        def heads(order: list[int]) -> str:
            return self.add("Transpose", self.add("Reshape", self.linear(values, WIDTH, WIDTH), split), perm=order)

        query, key, value = heads([0, 2, 1, 3]), heads([0, 2, 3, 1]), heads([0, 2, 1, 3])
        root = self.constant(np.array((WIDTH // HEADS) ** 0.5, np.float32))
        weights = self.add("Softmax", self.add("Div", self.add("MatMul", query, key), root), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.linear(self.add("Reshape", mixed, joined), WIDTH, WIDTH)

    def model(self, taken: list[int], given: list[int]) -> onnx.ModelProto:
        """Returns the whole, from `input` to `probabilities`."""
        inputs = [h.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *taken])]
        outputs = [h.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", *given])]
        graph = h.make_graph(self._nodes, "network", inputs, outputs, self._constants)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(model)
        return model


def _trained(classifier: Any, seed: int) -> Network:
    """Trains on a part of 569 rows of 30 numbers, and converts."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from gnomon_converters import publish

    x, y = load_breast_cancer(return_X_y=True)
    x, part = x.astype(np.float32), slice(100 * seed, 400 + 100 * seed)
    pipeline = make_pipeline(StandardScaler(), classifier).fit(x[part], y[part])
    with tempfile.TemporaryDirectory() as folder:
        publish(pipeline, name="trained", repository=Path(folder), sample=x[500:])
        return Network(onnx.load(Path(folder) / "trained" / "1" / "model.onnx"), x[:ROWS])


def _noise(shape: tuple[int, ...]) -> Array:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)
