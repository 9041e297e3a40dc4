from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server.shadow.fakes import on_the_wire, record_of

from gnomon_protos.tensors import Array
from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import AlignSettings, MirrorSettings, UnitSettings
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


class Metric:
    """Takes kilometres, and gives degrees Celsius beside a count."""

    model, version, digest, coalescable = "heat", 2, "sha256:two", True
    signature = Signature(
        (TensorSpec("km", "FP32", (-1, 1)), TensorSpec("n", "INT64", (-1, 1))),
        (TensorSpec("celsius", "FP64", (-1, 1)),),
    )
    comparisons: tuple[Comparison, ...] = ()
    trouble = ""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        assert inputs["km"].dtype == np.float32
        assert list(outputs) == ["celsius"]
        return [inputs["km"].astype(np.float64)]


def test_a_version_is_asked_in_its_own_units_and_answers_in_its_primarys() -> None:
    # The version's number is the primary's times the factor plus the offset: 1.609344 km a mile, C = (F - 32) / 1.8.
    units = {"miles": UnitSettings(1.609344), "fahrenheit": UnitSettings(1 / 1.8, -32 / 1.8)}
    names = AlignSettings(inputs={"miles": "km"}, outputs={"fahrenheit": "celsius"}, units=units)
    miles = np.array([[1.0], [100.0]], np.float32)
    (found,) = Aligned(Metric(), names).run({"miles": miles, "n": np.ones((2, 1), np.int64)}, ["fahrenheit"])
    assert found.dtype == np.float64
    assert found == pytest.approx(miles.astype(np.float64) * 1.609344 * 1.8 + 32, rel=1e-6)


@given(st.floats(-1e6, 1e6), st.floats(0.01, 100), st.floats(-100, 100))
def test_a_unit_that_is_declared_on_both_sides_leaves_an_identity_as_it_is(
    value: float, factor: float, offset: float
) -> None:
    unit = UnitSettings(factor, offset)
    names = AlignSettings(inputs={"a": "km"}, outputs={"b": "celsius"}, units={"a": unit, "b": unit})
    given_ = np.array([[value]], np.float32)
    (found,) = Aligned(Metric(), names).run({"a": given_, "n": np.ones((1, 1), np.int64)}, ["b"])
    # What was rounded on the way in was as large as the number in the version's unit.
    assert found == pytest.approx(given_, abs=1e-6 * (abs(value) + abs(offset / factor)) + 1e-30)


@pytest.mark.parametrize(
    ("name", "text"),
    [("n", "units of 'n': expected FP16, FP32, FP64, received INT64"), ("kms", "units: no input or output 'kms', but")],
)
def test_units_of_what_is_no_tensor_of_floats_are_refused(name: str, text: str) -> None:
    with pytest.raises(LoadError, match=text):
        Aligned(Metric(), AlignSettings(units={name: UnitSettings(2.0)}))


@pytest.mark.parametrize(("factor", "offset"), [(0.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_unit_that_cannot_be_turned_round_is_refused(factor: float, offset: float) -> None:
    with pytest.raises(ValueError, match="expected a finite offset and a finite factor other than 0"):
        UnitSettings(factor, offset)
