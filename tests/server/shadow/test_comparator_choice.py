from __future__ import annotations

import pytest

from gnomon_server.errors import LoadError
from gnomon_server.models import overrides
from gnomon_server.models.manifest import Comparison, Decision
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import OutputSettings
from gnomon_server.shadow.choice import choose

LABEL = TensorSpec("label", "INT64", (-1,))
PROBABILITIES = TensorSpec("probabilities", "FP32", (-1, 3))


def decided(
    thresholds: tuple[float, ...],
    names: tuple[str, ...],
    score: str = "",
    costs: dict[tuple[str, str], float] | None = None,
) -> Comparison:
    return Comparison("score", "decision", {}, 0.0, "", Decision(thresholds, names, score, costs or {}))


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
        (TensorSpec("image", "BF16", (-1, 8, 8, 3)), "isclose", 0.0),
        (TensorSpec("probabilities", "BF16", (-1, 3)), "tv", 0.1),
        (TensorSpec("sentence_embedding", "FP32", (-1, 384)), "cosine", 0.005),
        (TensorSpec("vector", "FP32", (-1, 384), "embedding"), "cosine", 0.005),
        (TensorSpec("embedding", "FP32", (-1, 1)), "isclose", 0.0),
        (TensorSpec("items", "INT64", (-1, 10), "ranking"), "rbo", 0.1),
        (TensorSpec("items", "BYTES", (-1, 10), "ranking"), "rbo", 0.1),
        (TensorSpec("mask", "BOOL", (-1, 8, 8)), "mask", 0.0),
    ],
)
def test_the_signature_suggests_a_comparator(output: TensorSpec, comparator: str, tolerance: float) -> None:
    chosen = choose(Signature((), (output,)), ())[output.name].comparison
    assert (chosen.output, chosen.comparator, chosen.tolerance) == (output.name, comparator, tolerance)


def test_a_label_beside_probabilities_is_compared_with_ties() -> None:
    chosen = choose(Signature((), (LABEL, PROBABILITIES)), ())
    assert chosen["label"].comparison == Comparison("label", "label", {}, 0.0, "probabilities")
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
        (Comparison("name", "tv", {}, 0.0), "expected label, .*edit, .* for BYTES, received 'tv'"),
        (Comparison("label", "edit", {}, 0.0), "for INT64, received 'edit'"),
        (Comparison("label", "isclose", {"rtoll": 1.0}, 0.0), "expected one of rtol, atol, received 'rtoll'"),
        (Comparison("label", "exact", {"rtol": 1.0}, 0.0), "expected none, received 'rtol'"),
        (Comparison("label", "isclose", {"rtol": -1.0}, 0.0), "rtol: expected a number of at least 0, received -1"),
        (Comparison("label", "isclose", {"rtol": float("nan")}, 0.0), "received nan"),
        (Comparison("label", "rbo", {"p": 1.0}, 0.0), "p: expected a number from 0.01 to 0.999, received 1.0"),
        (Comparison("label", "scaled_abs", {}, 0.0), "expected 'spread', which has no default"),
        (Comparison("label", "label", {}, 1.5), "tolerance: expected a number from 0 to 1, received 1.5"),
        (Comparison("label", "label", {}, 0.0, floor=-1.0), "floor: expected a number from 0 to 1, received -1.0"),
        (Comparison("score", "decision", {}, 0.0), "expected thresholds and names"),
        (Comparison("label", "label", {}, 0.0, "", Decision((0.5,), ("no", "yes"))), "for a decision, received INT64"),
        (decided((0.5, 0.5), ("a", "b", "c")), "numbers that ascend, received"),
        (decided((), ("a",)), "numbers that ascend"),
        (decided((float("nan"),), ("a", "b")), "numbers that ascend"),
        (decided((0.5,), ("a", "b", "c")), "expected 2 different names"),
        (decided((0.5,), ("a", "a")), "expected 2 different names"),
        (decided((0.5,), ("a", "undecided")), "expected 2 different names"),
        (decided((0.5,), ("a", "b"), "late"), r"score: expected one of \['0'\], received 'late'"),
        (decided((0.5,), ("a", "b"), costs={("a", "c"): 1.0}), "expected two of .*, received 'a -> c'"),
        (decided((0.5,), ("a", "b"), costs={("a", "b"): float("inf")}), "expected a finite number for 'a -> b'"),
    ],
)
def test_a_declaration_that_cannot_be_followed_is_refused_with_the_reason(declared: Comparison, reason: str) -> None:
    signature = Signature((), (LABEL, TensorSpec("name", "BYTES", (-1,)), TensorSpec("score", "FP32", (-1, 1))))
    with pytest.raises(LoadError, match=reason):
        choose(signature, (declared,))


def test_the_settings_go_before_the_manifest() -> None:
    declared = Comparison("probabilities", "hellinger", {}, 0.0)
    settings = {"probabilities": OutputSettings("js_distance", tolerance=0.2)}
    chosen = choose(Signature((), (PROBABILITIES,)), (declared, *overrides.comparisons(settings)))[
        "probabilities"
    ].comparison
    assert (chosen.comparator, chosen.tolerance) == ("js_distance", 0.2)


def test_costs_in_the_settings_name_the_flip_with_an_arrow() -> None:
    settings = OutputSettings("tv", thresholds=(0.5,), decisions=("deny", "approve"), costs={"deny->approve": 4})
    (comparison,) = overrides.comparisons({"p": settings})
    assert comparison.decision == Decision((0.5,), ("deny", "approve"), "", {("deny", "approve"): 4})
