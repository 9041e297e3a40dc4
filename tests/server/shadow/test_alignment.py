from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from server.shadow.fakes import on_the_wire, record_of

from gnomon_protos.tensors import Array
from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import AlignSettings, MirrorSettings
from gnomon_server.shadow.alignment import Aligned, aligned
from gnomon_server.shadow.pipeline import Pipeline


class Renamed:
    """A classifier whose tensors are called otherwise, with two more inputs and its classes turned round."""

    model, version, digest, coalescable = "churn", 2, "sha256:two", True
    signature = Signature(
        (TensorSpec("income", "FP32", (-1, 1)), TensorSpec("region", "BYTES", (-1, 1)), TensorSpec("t", "INT64", (1,))),
        (TensorSpec("scores", "FP32", (-1, 2), "probabilities", ("stays", "leaves")),),
    )
    comparisons: tuple[Comparison, ...] = (Comparison("scores", "tv", {}, 0.01),)
    trouble = ""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        assert list(outputs) == ["scores"]
        assert set(inputs) == {"income", "region", "t"}
        assert inputs["region"].tolist() == [["north"]] * len(inputs["income"])
        assert inputs["t"].tolist() == [7]
        assert inputs["t"].dtype == np.int64
        leaves = inputs["income"][:, 0]
        return [np.stack([1 - leaves, leaves], axis=1)]


DECLARED = AlignSettings(
    inputs={"salary": "income"},
    outputs={"probabilities": "scores"},
    constants={"region": "north", "t": 7},
    classes={"probabilities": ("leaves", "stays")},
)


def test_a_version_is_asked_and_answers_as_its_primary() -> None:
    shadow = Aligned(Renamed(), DECLARED)
    assert [spec.name for spec in shadow.signature.inputs] == ["salary"]
    (output,) = shadow.signature.outputs
    assert (output.name, output.classes) == ("probabilities", ("leaves", "stays"))
    assert shadow.comparisons == (Comparison("probabilities", "tv", {}, 0.01),)
    (found,) = shadow.run({"salary": np.array([[0.25], [0.5]], np.float32)}, ["probabilities"])
    assert found.tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_only_the_version_that_is_declared_is_aligned() -> None:
    shadow = Renamed()
    assert aligned(shadow, {"3": DECLARED}) is shadow
    assert isinstance(aligned(shadow, {"2": DECLARED}), Aligned)


async def test_an_aligned_shadow_is_compared_in_batches() -> None:
    with ThreadPoolExecutor(1) as executor:
        pipeline = Pipeline(aligned(Renamed(), {"2": DECLARED}), MirrorSettings(), "", executor)
        for leaves in (0.25, 0.5, 0.75):
            answer = np.array([[leaves, 1 - leaves]], np.float32)
            record = record_of({"salary": answer[:, :1]}, {"probabilities": answer})
            pipeline.take(record, len(on_the_wire(record)))
        await pipeline.finish(asyncio.create_task(pipeline.run()), 60)
        (pair,) = pipeline.report("epoch").pairs
    assert (pair.compared, pair.disagreeing, pair.not_comparable) == (3, 0, 0)


def test_all_that_does_not_fit_is_listed() -> None:
    wrong = AlignSettings(
        inputs={"salary": "incme"},
        outputs={"p": "scors"},
        constants={"regin": "north"},
        classes={"scores": ("leaves", "stay")},
    )
    with pytest.raises(LoadError) as raised:
        Aligned(Renamed(), wrong)
    for part in (
        "no input 'incme', but ['income', 'region', 't']",
        "no input 'regin'",
        "no output 'scors'",
        "classes of output 'scores': the version has ['stays', 'leaves'], declared are ['leaves', 'stay']",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(("name", "value"), [("region", 1), ("t", "seven")])
def test_a_constant_of_another_kind_is_refused(name: str, value: float | str) -> None:
    with pytest.raises(LoadError, match=f"constant of input '{name}'"):
        Aligned(Renamed(), AlignSettings(constants={name: value}))
