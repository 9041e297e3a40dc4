"""Small ONNX models for tests, each with one behaviour, written into a repository folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

OPSET = [h.make_opsetid("", 17), h.make_opsetid("ai.onnx.ml", 3)]
FLOAT, INT64 = T.FLOAT, T.INT64


def write(repository: Path, name: str, version: int, graph: onnx.GraphProto) -> Path:
    """Writes a version without a manifest, as a plain Triton repository has it; returns its folder."""
    model = h.make_model(graph, opset_imports=OPSET, ir_version=9)
    # The checker wants a shape of every input; there are files without, and onnxruntime takes them.
    if all(value.type.tensor_type.HasField("shape") for value in (*graph.input, *graph.output)):
        onnx.checker.check_model(model)
    aside = repository / f".{name}-{version}"
    aside.mkdir(parents=True)
    onnx.save(model, aside / "model.onnx")
    folder = repository / name / str(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    return aside.rename(folder)


def identity(datatype: int = FLOAT, shape: tuple[int | str, ...] | None = ("batch", 3)) -> onnx.GraphProto:
    """y = x, of any rank if the shape is None."""
    return h.make_graph(
        [h.make_node("Identity", ["x"], ["y"])],
        "identity",
        [h.make_tensor_value_info("x", datatype, shape)],
        [h.make_tensor_value_info("y", datatype, shape)],
    )


def affine(scale: float, shift: float = 0.0, width: int = 3) -> onnx.GraphProto:
    """y = scale * x + shift, FP32 [-1, width]."""
    constants = [
        numpy_helper.from_array(np.float32(scale), "scale"),
        numpy_helper.from_array(np.float32(shift), "shift"),
    ]
    return h.make_graph(
        [h.make_node("Mul", ["x", "scale"], ["scaled"]), h.make_node("Add", ["scaled", "shift"], ["y"])],
        "affine",
        [h.make_tensor_value_info("x", FLOAT, ["batch", width])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", width])],
        constants,
    )


def classifier(bias: float = 0.0) -> onnx.GraphProto:
    """Two classes: probabilities = [1 - p, p] with p = sigmoid(sum(x) + bias), label = argmax."""
    constants = [
        numpy_helper.from_array(np.array([[0.0, 1.0]] * 3, np.float32), "weights"),
        numpy_helper.from_array(np.array([0.0, bias], np.float32), "bias"),
    ]
    return h.make_graph(
        [
            h.make_node("MatMul", ["x", "weights"], ["sums"]),
            h.make_node("Add", ["sums", "bias"], ["logits"]),
            h.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            h.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "classifier",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [
            h.make_tensor_value_info("label", INT64, ["batch"]),
            h.make_tensor_value_info("probabilities", FLOAT, ["batch", 2]),
        ],
        constants,
    )


def zipped(**labels: list[int] | list[str]) -> onnx.GraphProto:
    """x [-1, 2] as one map a row, from these labels: `classlabels_strings` or `classlabels_int64s`."""
    key = T.STRING if "classlabels_strings" in labels else INT64
    row = h.make_map_type_proto(key, h.make_tensor_type_proto(FLOAT, []))
    return h.make_graph(
        [h.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", **labels)],
        "zipped",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 2])],
        [h.make_value_info("scores", h.make_sequence_type_proto(row))],
    )


def renamed(graph: onnx.GraphProto, **names: str) -> onnx.GraphProto:
    """The graph with other names for some of its tensors."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    return graph


def raising() -> onnx.GraphProto:
    """y = x for rows whose first number is 0; any other row indexes past the end, which fails at run time."""
    constants = [numpy_helper.from_array(np.zeros((1, 3), np.float32), "table")]
    return h.make_graph(
        [
            h.make_node("Slice", ["x", "zero", "one", "axis"], ["first"]),
            h.make_node("Cast", ["first"], ["index"], to=INT64),
            h.make_node("Squeeze", ["index", "axis"], ["flat"]),
            h.make_node("Gather", ["table", "flat"], ["zeros"], axis=0),
            h.make_node("Add", ["x", "zeros"], ["y"]),
        ],
        "raising",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", 3])],
        [
            *constants,
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )


def slow(rounds: int, above: float = 0.5) -> onnx.GraphProto:
    """y = x, after `rounds` multiplications of a 64 x 64 matrix if any number of x is above a limit, else at once.

    What a server runs to warm a version up has numbers between 0 and 1.
    """
    eye = numpy_helper.from_array(np.eye(64, dtype=np.float32), "eye")
    body = h.make_graph(
        [h.make_node("MatMul", ["state", "eye"], ["next"]), h.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            h.make_tensor_value_info("round", INT64, []),
            h.make_tensor_value_info("go", T.BOOL, []),
            h.make_tensor_value_info("state", FLOAT, [64, 64]),
        ],
        [h.make_tensor_value_info("on", T.BOOL, []), h.make_tensor_value_info("next", FLOAT, [64, 64])],
    )
    return h.make_graph(
        [
            h.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            h.make_node("Greater", ["largest", "limit"], ["heavy"]),
            h.make_node("Loop", ["rounds", "heavy", "eye"], ["last"], body=body),
            h.make_node("ReduceMax", ["last"], ["unit"], keepdims=0),
            h.make_node("Mul", ["x", "unit"], ["y"]),
        ],
        "slow",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", 3])],
        [
            eye,
            numpy_helper.from_array(np.float32(above), "limit"),
            numpy_helper.from_array(np.int64(rounds), "rounds"),
        ],
    )


def added(batch: str | None = "batch") -> onnx.GraphProto:
    """y = a + b, two inputs FP32 [-1, 3]."""
    return h.make_graph(
        [h.make_node("Add", ["a", "b"], ["y"])],
        "added",
        [h.make_tensor_value_info(name, FLOAT, [batch, 3]) for name in ("a", "b")],
        [h.make_tensor_value_info("y", FLOAT, [batch, 3])],
    )


def repeated(copies: int, datatype: int = FLOAT) -> onnx.GraphProto:
    """y = x beside itself `copies` times: [-1, 3] to [-1, 3 * copies]."""
    return h.make_graph(
        [h.make_node("Concat", ["x"] * copies, ["y"], axis=1)],
        "repeated",
        [h.make_tensor_value_info("x", datatype, ["batch", 3])],
        [h.make_tensor_value_info("y", datatype, ["batch", 3 * copies])],
    )


def centred() -> onnx.GraphProto:
    """y = x minus the mean over the batch: a row's answer depends on the other rows."""
    return h.make_graph(
        [h.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), h.make_node("Sub", ["x", "mean"], ["y"])],
        "centred",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", 3])],
    )


def shifted() -> onnx.GraphProto:
    """y = x + by: `by` may be left out, and is then a row of ones."""
    return h.make_graph(
        [h.make_node("Add", ["x", "by"], ["y"])],
        "shifted",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3]), h.make_tensor_value_info("by", FLOAT, ["rows", 3])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones((1, 3), np.float32), "by")],
    )


def product(*dimensions: str | None) -> onnx.GraphProto:
    """y = a b, two matrices [m, k] and [k, n] whose four dimensions have these names, or none."""
    rows, inner, again, columns = dimensions
    return h.make_graph(
        [h.make_node("MatMul", ["a", "b"], ["y"])],
        "product",
        [h.make_tensor_value_info("a", FLOAT, [rows, inner]), h.make_tensor_value_info("b", FLOAT, [again, columns])],
        [h.make_tensor_value_info("y", FLOAT, [rows, columns])],
    )


def paired(limit: float, first: int, second: int, width: int = 20) -> onnx.GraphProto:
    """y = x, and 1 more where two numbers of a row both reach a limit."""
    return h.make_graph(
        [
            h.make_node("Gather", ["x", "columns"], ["both"], axis=1),
            h.make_node("ReduceMin", ["both"], ["least"], axes=[1], keepdims=1),
            h.make_node("GreaterOrEqual", ["least", "limit"], ["over"]),
            h.make_node("Cast", ["over"], ["step"], to=FLOAT),
            h.make_node("Add", ["x", "step"], ["y"]),
        ],
        "paired",
        [h.make_tensor_value_info("x", FLOAT, ["batch", width])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", width])],
        [
            numpy_helper.from_array(np.array([first, second], np.int64), "columns"),
            numpy_helper.from_array(np.float32(limit), "limit"),
        ],
    )


def noisy(spread: float) -> onnx.GraphProto:
    """y = x + something between 1 and 1 + spread that is another one in every run."""
    return h.make_graph(
        [
            h.make_node("RandomUniformLike", ["x"], ["noise"], low=1.0, high=1.0 + spread),
            h.make_node("Add", ["x", "noise"], ["y"]),
        ],
        "noisy",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", 3])],
    )


def stepped(limit: float) -> onnx.GraphProto:
    """y = x, and 1 more where the first number of a row reaches a limit."""
    return h.make_graph(
        [
            h.make_node("Gather", ["x", "first"], ["column"], axis=1),
            h.make_node("GreaterOrEqual", ["column", "limit"], ["over"]),
            h.make_node("Cast", ["over"], ["step"], to=FLOAT),
            h.make_node("Add", ["x", "step"], ["y"]),
        ],
        "stepped",
        [h.make_tensor_value_info("x", FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([0], np.int64), "first"),
            numpy_helper.from_array(np.float32(limit), "limit"),
        ],
    )
