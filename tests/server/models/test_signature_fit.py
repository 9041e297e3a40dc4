from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnomon_server.models.fit import described, differences
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.wire.signatures import Tensor, Tensors

PRIMARY = Tensors(
    (Tensor("x", "FP32", (-1, 3)), Tensor("by", "FP32", (-1, 3), optional=True)),
    (Tensor("p", "FP32", (-1, 2), ("no", "yes")), Tensor("label", "INT64", (-1,))),
)
TENSORS = st.builds(
    Tensor,
    st.sampled_from("abc"),
    st.sampled_from(("FP32", "INT64", "UINT8", "BYTES", "BF16")),
    st.lists(st.sampled_from((-1, 1, 3)), max_size=3).map(tuple),
    st.sampled_from(((), ("no", "yes"), ("yes", "no"))),
    st.booleans(),
)
PARTS = st.lists(TENSORS, max_size=3, unique_by=lambda tensor: tensor.name).map(tuple)
SIGNATURES = st.builds(Tensors, PARTS, PARTS)


def changed(inputs: dict[int, Tensor] | None = None, outputs: dict[int, Tensor] | None = None) -> Tensors:
    """Returns the primary's signature with these tensors in the places of its own, or after them."""
    parts = []
    for own, others in ((PRIMARY.inputs, inputs or {}), (PRIMARY.outputs, outputs or {})):
        parts.append(tuple((dict(enumerate(own)) | others).values()))
    return Tensors(*parts)


@pytest.mark.parametrize(
    ("shadow", "found"),
    [
        (changed({0: Tensor("z", "FP32", (-1, 3), optional=True)}), "input 'x': expected FP32 [-1, 3], received none"),
        (changed({0: Tensor("x", "FP64", (-1, 3))}), "input 'x': expected FP32 [-1, 3], received FP64 [-1, 3]"),
        (changed({0: Tensor("x", "FP32", (-1, 4))}), "input 'x': expected FP32 [-1, 3], received FP32 [-1, 4]"),
        (
            changed({1: Tensor("by", "FP32", (-1, 3))}),
            "input 'by': expected an optional one, received FP32 [-1, 3], which is required",
        ),
        (
            changed({2: Tensor("region", "BYTES", (-1, 1))}),
            "input 'region': expected none, received BYTES [-1, 1], which is required",
        ),
        (changed(outputs={0: Tensor("q", "FP32", (-1, 2))}), "output 'p': expected FP32 [-1, 2], received none"),
        (
            changed(outputs={1: Tensor("label", "BYTES", (-1,))}),
            "output 'label': expected INT64 [-1], received BYTES [-1]",
        ),
        (
            changed(outputs={0: Tensor("p", "FP32", (-1, 2), ("yes", "no"))}),
            "output 'p': expected classes ['no', 'yes'], received ['yes', 'no']",
        ),
    ],
)
def test_what_does_not_fit_is_named_with_expected_and_received(shadow: Tensors, found: str) -> None:
    assert differences(PRIMARY, shadow) == (found,)


@pytest.mark.parametrize(
    "shadow",
    [
        PRIMARY,
        changed({0: Tensor("x", "FP32", (-1, -1))}),
        changed({0: Tensor("x", "FP32", (), ranked=False)}),
        changed({2: Tensor("region", "BYTES", (-1, 1), optional=True)}),
        changed(outputs={0: Tensor("p", "FP16", (-1, 3))}),
        changed(outputs={1: Tensor("label", "INT32", (-1,), ("no", "yes"))}),
        changed(outputs={2: Tensor("more", "FP32", (-1,))}),
    ],
)
def test_free_sizes_and_what_only_the_shadow_adds_fit(shadow: Tensors) -> None:
    assert differences(PRIMARY, shadow) == ()


@given(SIGNATURES)
def test_every_signature_fits_itself(signature: Tensors) -> None:
    assert differences(signature, signature) == ()


@given(SIGNATURES, SIGNATURES)
def test_every_difference_names_its_tensor_once(primary: Tensors, shadow: Tensors) -> None:
    found = differences(primary, shadow)
    heads = [text.partition(": ")[0] + (" required" if "required" in text else "") for text in found]
    assert len(set(heads)) == len(heads)


def test_a_signature_is_described_as_it_is() -> None:
    spec = TensorSpec("p", "FP32", (-1, 2), "probabilities", ("no", "yes"))
    assert described(Signature((), (spec,))) == Tensors((), (Tensor("p", "FP32", (-1, 2), ("no", "yes")),))
