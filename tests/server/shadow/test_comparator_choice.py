from __future__ import annotations

import pytest

from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.choice import choose

LABEL = TensorSpec("label", "INT64", (-1,))
PROBABILITIES = TensorSpec("probabilities", "FP32", (-1, 3))


@pytest.mark.parametrize(
    ("output", "comparator", "tolerance"),
    [
        (LABEL, "label", 0.0),
        (TensorSpec("label", "BYTES", (-1, 1)), "label", 0.0),
        (TensorSpec("flag", "BOOL", ()), "label", 0.0),
        (TensorSpec("ids", "INT64", (-1, 10)), "exact", 0.0),
        (TensorSpec("words", "BYTES", (-1, 4)), "exact", 0.0),
        (PROBABILITIES, "tv", 0.1),
        (TensorSpec("output_Probability", "FP64", (-1, -1)), "tv", 0.1),
        (TensorSpec("scores", "FP32", (-1, 3), "probabilities"), "tv", 0.1),
        # The name says it, the manifest says otherwise.
        (TensorSpec("probing", "FP32", (-1, 3), "value"), "isclose", 0.0),
        # One column does not sum to 1.
        (TensorSpec("probability", "FP32", (-1, 1)), "isclose", 0.0),
        (TensorSpec("variable", "FP32", (-1, 1)), "isclose", 0.0),
        (TensorSpec("image", "FP16", (-1, 8, 8, 3)), "isclose", 0.0),
    ],
)
def test_the_signature_suggests_a_comparator(output: TensorSpec, comparator: str, tolerance: float) -> None:
    chosen = choose(Signature((), (output,)), ())[output.name].comparison
    assert (chosen.output, chosen.comparator, chosen.tolerance) == (output.name, comparator, tolerance)


def test_a_label_beside_probabilities_is_compared_with_ties() -> None:
    chosen = choose(Signature((), (LABEL, PROBABILITIES)), ())
    assert chosen["label"].comparison == Comparison("label", "label", {"tie_eps": 1e-6}, 0.0, "probabilities")
    assert chosen["label"].classes == {}


def test_a_label_beside_two_sets_of_probabilities_is_compared_without() -> None:
    other = TensorSpec("other_prob", "FP32", (-1, 3))
    chosen = choose(Signature((), (LABEL, PROBABILITIES, other)), ())
    assert chosen["label"].comparison.probabilities == ""


@pytest.mark.parametrize("at", ["label", "probabilities"])
def test_classes_give_labels_their_columns(at: str) -> None:
    label = TensorSpec("label", "BYTES", (-1,), "label", ("b", "a", "c") if at == "label" else ())
    named = TensorSpec("p", "FP32", (-1, 3), "probabilities", ("b", "a", "c") if at == "probabilities" else ())
    assert choose(Signature((), (label, named)), ())["label"].classes == {"b": 0, "a": 1, "c": 2}


def test_the_manifest_goes_before_the_signature_output_by_output() -> None:
    declared = Comparison("label", "exact", {}, 0.0)
    chosen = choose(Signature((), (LABEL, PROBABILITIES)), (declared,))
    assert chosen["label"].comparison == declared
    assert chosen["probabilities"].comparison.comparator == "tv"


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (Comparison("label", "vibes", {}, 0.0), "received 'vibes'"),
        (Comparison("lable", "label", {}, 0.0), "received 'lable'"),
        (Comparison("label", "label", {}, 0.0, "probs"), "received 'probs'"),
        (Comparison("name", "tv", {}, 0.0), "for BYTES, received 'tv'"),
    ],
)
def test_a_declaration_that_cannot_be_followed_is_refused_with_the_reason(declared: Comparison, reason: str) -> None:
    signature = Signature((), (LABEL, TensorSpec("name", "BYTES", (-1,))))
    with pytest.raises(LoadError, match=reason):
        choose(signature, (declared,))
