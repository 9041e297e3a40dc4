"""A version is served only if it is what it declares to be."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnx_models as models
import pytest
from onnx import helper as h
from server.models.manifests import digest, golden, spec, write

from gnomon_protos import manifest_pb2
from gnomon_protos.tensors import FIXED, Array
from gnomon_server.errors import Internal, LoadError
from gnomon_server.models.servable import Servable, load
from gnomon_server.models.signature import TensorSpec
from gnomon_server.settings import ModelSettings, SessionSettings
from gnomon_server.wire.plans import VersionRef

ROWS = np.array([[1, 2, 3], [4, 5, 6], [-7, 8.5, 9]], np.float32)


def made(tmp_path: Path, graph: onnx.GraphProto) -> Path:
    return models.write(tmp_path, "line", 1, graph)


def loaded(folder: Path, known: str = "") -> Servable:
    return load(VersionRef("line", 1, str(folder), known))


def declared(folder: Path, **fields: object) -> None:
    write(folder, manifest_pb2.Manifest(format=1, model_file="model.onnx", **fields))  # type: ignore[arg-type]


def refused(folder: Path, known: str = "") -> str:
    with pytest.raises(LoadError) as raised:
        loaded(folder, known)
    text = str(raised.value)
    assert "\n" not in text
    assert str(folder) not in text
    return text


def test_a_plain_model_is_served_with_the_signature_of_its_file(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0, 1.0))
    servable = loaded(folder)
    assert (servable.model, servable.version) == ("line", 1)
    assert servable.digest == digest(folder / "model.onnx")
    assert servable.signature.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert servable.comparisons == ()
    (answer,) = servable.run({"x": ROWS}, ["y"])
    assert answer.tolist() == (2 * ROWS + 1).tolist()


def test_text_goes_in_and_comes_out_as_str(tmp_path: Path) -> None:
    servable = loaded(made(tmp_path, models.identity(onnx.TensorProto.STRING, ("batch",))))
    (answer,) = servable.run({"x": np.array(["a", "", "grün"], object)}, ["y"])
    assert answer.tolist() == ["a", "", "grün"]


@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_bfloat16_goes_in_and_comes_out_beside_other_types(shape: tuple[int, ...], tmp_path: Path) -> None:
    graph = h.make_graph(
        [
            h.make_node("Cast", ["x"], ["wide"], to=models.FLOAT),
            h.make_node("Add", ["wide", "by"], ["y"]),
            h.make_node("Cast", ["y"], ["z"], to=onnx.TensorProto.BFLOAT16),
        ],
        "halves",
        [
            h.make_tensor_value_info("x", onnx.TensorProto.BFLOAT16, ["batch", 3]),
            h.make_tensor_value_info("by", models.FLOAT, ["batch", 3]),
        ],
        [
            h.make_tensor_value_info("y", models.FLOAT, ["batch", 3]),
            h.make_tensor_value_info("z", onnx.TensorProto.BFLOAT16, ["batch", 3]),
        ],
    )
    servable = loaded(made(tmp_path, graph))
    x = np.linspace(-3, 3, int(np.prod(shape)), dtype=np.float32).astype(FIXED["BF16"]).reshape(shape)
    by = np.full(shape, 0.5, np.float32)
    z, y = servable.run({"x": x, "by": by}, ["z", "y"])
    assert servable.coalescable
    assert [y.dtype, z.dtype] == [FIXED["FP32"], FIXED["BF16"]]
    assert np.array_equal(y, x.astype(np.float32) + by)
    assert np.array_equal(z, y.astype(FIXED["BF16"]))


def test_text_beside_bfloat16_is_refused_at_loading_because_no_request_could_be_run(tmp_path: Path) -> None:
    types = {"x": onnx.TensorProto.BFLOAT16, "s": onnx.TensorProto.STRING}
    graph = h.make_graph(
        [h.make_node("Identity", [name], [f"{name}_out"]) for name in types],
        "mixed",
        [h.make_tensor_value_info(name, element, ["batch"]) for name, element in types.items()],
        [h.make_tensor_value_info(f"{name}_out", element, ["batch"]) for name, element in types.items()],
    )
    assert "no text inputs and no maps beside BF16" in refused(made(tmp_path, graph))


@pytest.mark.parametrize(
    ("labels", "classes", "columns"),
    [
        ({"classlabels_strings": ["no", "yes"]}, ("no", "yes"), [0, 1]),
        ({"classlabels_int64s": [3, -1]}, ("-1", "3"), [1, 0]),
    ],
)
def test_maps_from_class_to_score_are_served_as_a_table_in_the_order_of_the_classes(
    labels: dict[str, list[str]], classes: tuple[str, ...], columns: list[int], tmp_path: Path
) -> None:
    servable = loaded(made(tmp_path, models.zipped(**labels)))
    assert servable.signature.outputs == (TensorSpec("scores", "FP32", (-1, 2), classes=classes),)
    assert servable.coalescable
    for x in (np.array([[0.25, 0.75], [1, 0], [0.1, 0.9]], np.float32), np.zeros((0, 2), np.float32)):
        (scores,) = servable.run({"x": x}, ["scores"])
        assert scores.dtype == np.float32
        assert scores.shape == x.shape
        assert np.array_equal(scores, x[:, columns])


def test_a_tensor_of_unknown_rank_is_none_of_a_scalar(tmp_path: Path) -> None:
    free = loaded(made(tmp_path / "free", models.identity(shape=None)))
    assert [spec.ranked for spec in (*free.signature.inputs, *free.signature.outputs)] == [False, False]
    assert not free.signature.batched
    assert free.run({"x": ROWS}, ["y"])[0].tolist() == ROWS.tolist()
    scalar = loaded(made(tmp_path / "scalar", models.identity(shape=())))
    assert scalar.signature.inputs == (TensorSpec("x", "FP32", ()),)


def test_an_input_with_an_initializer_may_be_left_out(tmp_path: Path) -> None:
    servable = loaded(made(tmp_path, models.shifted()))
    assert [spec.name for spec in servable.signature.required] == ["x"]
    assert [(spec.name, spec.shape, spec.optional) for spec in servable.signature.inputs] == [
        ("x", (-1, 3), False),
        ("by", (-1, 3), True),
    ]
    assert servable.run({"x": ROWS}, ["y"])[0].tolist() == (ROWS + 1).tolist()
    assert servable.run({"x": ROWS, "by": -ROWS}, ["y"])[0].tolist() == (0 * ROWS).tolist()
    assert servable.coalescable


@pytest.mark.parametrize(
    ("graph", "aligned"),
    [
        (models.product("m", "k", "k", "n"), False),
        (models.product(None, None, None, None), False),
        (models.added(), True),
        # No names, and its probe shows that rows go with rows.
        (models.added(None), True),
        (models.affine(2.0), True),
    ],
)
def test_inputs_have_one_batch_where_the_model_says_so_or_shows_it(
    graph: onnx.GraphProto, aligned: bool, tmp_path: Path
) -> None:
    assert loaded(made(tmp_path, graph)).signature.batched is aligned


def test_a_manifest_need_not_name_an_input_that_may_be_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path, models.shifted())
    signature = manifest_pb2.Signature(inputs=[spec("x", "FP32", [-1, 3])], outputs=[spec("y", "FP32", [-1, 3])])
    declared(folder, signature=signature)
    assert [spec.name for spec in loaded(folder).signature.inputs] == ["x", "by"]


def test_a_run_that_fails_is_internal(tmp_path: Path) -> None:
    servable = loaded(made(tmp_path, models.raising()))
    with pytest.raises(Internal, match="execution failed"):
        servable.run({"x": ROWS}, ["y"])


def test_a_servable_may_run_on_several_threads_at_once(tmp_path: Path) -> None:
    servable = loaded(made(tmp_path, models.affine(2.0)))
    start = threading.Barrier(4)
    wrong: list[Array] = []

    def run(scale: int) -> None:
        start.wait(30)
        for _ in range(50):
            (answer,) = servable.run({"x": scale * ROWS}, ["y"])
            if not np.array_equal(answer, 2 * scale * ROWS):
                wrong.append(answer)

    threads = [threading.Thread(target=run, args=(scale,)) for scale in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    "session",
    [
        SessionSettings(threads=2, spinning=True),
        SessionSettings(arena=False, optimization="none"),
        SessionSettings(provider_options={"CPUExecutionProvider": {}}),
    ],
)
def test_the_answer_is_the_same_however_the_session_is_set(session: SessionSettings, tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0, 1.0))
    servable = load(VersionRef("line", 1, str(folder)), ModelSettings(session=session))
    (answer,) = servable.run({"x": ROWS}, ["y"])
    assert answer.tolist() == (2 * ROWS + 1).tolist()


def test_a_provider_that_onnxruntime_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    session = SessionSettings(providers=("TensorrtExecutionProvider", "CPUExecutionProvider"))
    with pytest.raises(LoadError, match=r"provider 'Tensorrt.*': expected one of .*'CPUExecutionProvider'"):
        load(VersionRef("line", 1, str(folder)), ModelSettings(session=session))


def test_a_servable_that_nobody_holds_is_gone_at_once_with_its_session(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    gc.disable()
    try:
        servable = loaded(folder)
        held = weakref.ref(servable), weakref.ref(servable._session)
        del servable
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_file_that_is_no_model_is_refused(content: bytes | None, tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    file = folder / "model.onnx"
    file.write_bytes(file.read_bytes()[:40] if content is None else content)
    assert refused(folder).startswith("model.onnx does not load: ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    write(folder, manifest_pb2.Manifest(format=1, model_file="other.onnx"))
    assert refused(folder) == "other.onnx cannot be read: No such file or directory"


def test_another_digest_than_the_manifest_declares_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    right = digest(folder / "model.onnx")
    declared(folder, model_digest=right)
    assert loaded(folder).digest == right
    wrong = f"sha256:{'0' * 64}"
    declared(folder, model_digest=wrong)
    assert refused(folder) == f"model.onnx: expected digest {wrong} as in the manifest, received {right}"


def test_another_digest_than_was_served_under_this_number_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    right = digest(folder / "model.onnx")
    assert loaded(folder, right).digest == right
    text = refused(folder, "sha256:12")
    assert (
        text
        == f"model.onnx: first served with digest sha256:12, received {right}: versions never change, publish a new one"
    )


def test_a_golden_sample_that_agrees_is_served_within_the_arithmetic_of_floats(tmp_path: Path) -> None:
    folder = made(tmp_path, models.affine(2.0))
    declared(folder, golden_sample=golden({"x": ROWS}, {"y": 2 * ROWS * np.float32(1 + 1e-6)}))
    assert loaded(folder).coalescable


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ({"x": ROWS}, {"y": 2.1 * ROWS}, "golden sample: output 'y' differs"),
        ({"x": ROWS}, {"y": 2 * ROWS[:2]}, "golden sample: output 'y' differs"),
        ({"x": ROWS[:, :2]}, {"y": ROWS}, "golden sample: execution failed: "),
        ({"z": ROWS}, {"y": ROWS}, "golden sample: execution failed: "),
        ({"x": np.float32(1)}, {"y": ROWS}, "golden sample: execution failed: "),
    ],
)
def test_a_golden_sample_that_disagrees_is_refused(
    inputs: dict[str, Array], outputs: dict[str, Array], reason: str, tmp_path: Path
) -> None:
    folder = made(tmp_path, models.affine(2.0))
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    outputs = {name: np.asarray(array, np.float32) for name, array in outputs.items()}
    declared(folder, golden_sample=golden(inputs, outputs))
    assert refused(folder).startswith(reason)


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([spec("x", "FP64", [-1, 3])], [spec("y", "FP32", [-1, 3])], "input 'x': the model has FP32 [-1, 3], the"),
        ([spec("x", "FP32", [-1])], [spec("y", "FP32", [-1, 3])], "input 'x': the model has FP32 [-1, 3], the"),
        ([spec("x", "FP32", [-1, 3])], [], "output 'y': the model has FP32 [-1, 3], the manifest nothing"),
        (
            [spec("x", "FP32", [-1, 3]), spec("z", "FP32", [1])],
            [spec("y", "FP32", [-1, 3])],
            "input 'z' of the manifest is not in the model",
        ),
    ],
)
def test_a_signature_that_the_model_does_not_have_is_refused(
    inputs: list[manifest_pb2.TensorSpec], outputs: list[manifest_pb2.TensorSpec], reason: str, tmp_path: Path
) -> None:
    folder = made(tmp_path, models.affine(2.0))
    declared(folder, signature=manifest_pb2.Signature(inputs=inputs, outputs=outputs))
    assert refused(folder).startswith(reason)


def test_meanings_come_from_the_manifest_and_order_and_shapes_from_the_model(tmp_path: Path) -> None:
    folder = made(tmp_path, models.classifier())
    outputs = [spec("probabilities", "FP32", [-1, -1], "probabilities"), spec("label", "INT64", [-1], "label")]
    declared(folder, signature=manifest_pb2.Signature(inputs=[spec("x", "FP32", [-1, -1])], outputs=outputs))
    signature = loaded(folder).signature
    assert [(s.name, s.shape, s.meaning) for s in signature.outputs] == [
        ("label", (-1,), "label"),
        ("probabilities", (-1, 2), "probabilities"),
    ]


def test_a_map_as_output_is_refused_since_no_tensor_carries_it(tmp_path: Path) -> None:
    sequence = h.make_sequence_type_proto(h.make_tensor_type_proto(models.FLOAT, ["batch", 3]))
    graph = h.make_graph(
        [h.make_node("SequenceConstruct", ["x"], ["y"])],
        "sequence",
        [h.make_tensor_value_info("x", models.FLOAT, ["batch", 3])],
        [h.make_value_info("y", sequence)],
    )
    assert refused(made(tmp_path, graph)).startswith("tensor 'y': expected one of tensor(bool), ")


@pytest.mark.parametrize(
    ("graph", "coalescable"),
    [
        (models.affine(2.0), True),
        (models.classifier(), True),
        (models.added(), True),
        (models.identity(onnx.TensorProto.STRING, ("batch", 2)), True),
        (models.centred(), False),
        (models.identity(shape=()), False),
        (models.identity(shape=(3, "free")), False),
        # Its probe fails, so that nothing is known of its rows.
        (models.raising(), True),
    ],
    ids=lambda value: value.name if isinstance(value, onnx.GraphProto) else str(value),
)
def test_requests_are_joined_only_where_rows_do_not_depend_on_each_other(
    graph: onnx.GraphProto, coalescable: bool, tmp_path: Path
) -> None:
    assert loaded(made(tmp_path, graph)).coalescable is coalescable


def test_the_probe_uses_the_golden_sample_where_there_is_one(tmp_path: Path) -> None:
    folder = made(tmp_path, models.centred())
    same = np.ones((3, 3), np.float32)
    declared(folder, golden_sample=golden({"x": same}, {"y": np.zeros((3, 3), np.float32)}))
    # On equal rows the mean over the batch cannot be seen; one row alone proves nothing either.
    assert loaded(folder).coalescable
    declared(folder, golden_sample=golden({"x": same[:1]}, {"y": np.zeros((1, 3), np.float32)}))
    assert not loaded(folder).coalescable


def test_a_model_without_inputs_is_not_joined(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(np.ones(2, np.float32), "value")
    graph = h.make_graph(
        [h.make_node("Constant", [], ["y"], value=value)],
        "constant",
        [],
        [h.make_tensor_value_info("y", models.FLOAT, ["batch"])],
    )
    servable = loaded(made(tmp_path, graph))
    assert not servable.coalescable
    assert servable.run({}, ["y"])[0].tolist() == [1, 1]


def test_an_output_that_is_not_as_its_file_says_is_not_joined(tmp_path: Path) -> None:
    graph = h.make_graph(
        [h.make_node("NonZero", ["x"], ["y"])],
        "nonzero",
        [h.make_tensor_value_info("x", models.FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", models.INT64, ["batch", "found"])],
    )
    assert not loaded(made(tmp_path, graph)).coalescable


def test_onnxruntimes_own_telemetry_is_off_before_it_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; import gnomon_server.models.servable as s; import os;"
        "assert 'onnxruntime' in sys.modules; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "1\n"
    assert list(tmp_path.rglob("*")) == []
