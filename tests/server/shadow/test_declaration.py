from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gnomon_protos.tensors import Array
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.choice import choose
from gnomon_server.shadow.declaration import declare
from gnomon_server.wire.plans import VersionRef

DECLARED = {
    "format": 1,
    "modelFile": "model.onnx",
    "signature": {
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [-1, 2], "meaning": "probabilities", "classes": ["a", "b"]},
            {"name": "gone", "datatype": "FP32", "shape": [-1, 2], "meaning": "embedding"},
        ]
    },
    "comparisons": [
        {"output": "scores", "comparator": "hellinger", "tolerance": 0.2},
        {"output": "gone", "comparator": "cosine", "tolerance": 0.1},
    ],
}


class Elsewhere:
    """A version of which only its endpoint speaks."""

    model, version, digest, coalescable, trouble = "m", 2, "", True, ""

    def __init__(self, *comparisons: Comparison) -> None:
        self.signature = Signature((), (TensorSpec("scores", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1,))))
        self.comparisons = comparisons

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        raise NotImplementedError(f"{inputs} {outputs}")


def declared(folder: Path, *own: Comparison) -> Elsewhere:
    (folder / "manifest.json").write_text(json.dumps(DECLARED))
    shadow = Elsewhere(*own)
    declare(shadow, VersionRef("m", 1, str(folder)))
    return shadow


def test_a_remote_shadow_is_compared_as_its_primarys_manifest_says(tmp_path: Path) -> None:
    shadow = declared(tmp_path)
    assert shadow.signature.outputs[0] == TensorSpec("scores", "FP32", (-1, 2), "probabilities", ("a", "b"))
    chosen = choose(shadow.signature, shadow.comparisons)
    assert {name: (one.comparison.comparator, one.comparison.tolerance) for name, one in chosen.items()} == {
        "scores": ("hellinger", 0.2),
        "y": ("isclose", 0.0),
    }


def test_what_is_declared_of_the_shadow_itself_goes_before(tmp_path: Path) -> None:
    shadow = declared(tmp_path, Comparison("scores", "tv", {}, 0.3))
    assert choose(shadow.signature, shadow.comparisons)["scores"].comparison.comparator == "tv"


def test_without_a_manifest_everything_is_chosen_as_before(tmp_path: Path) -> None:
    shadow = Elsewhere()
    before = shadow.signature
    declare(shadow, VersionRef("m", 1, str(tmp_path)))
    assert (shadow.signature, shadow.comparisons) == (before, ())
