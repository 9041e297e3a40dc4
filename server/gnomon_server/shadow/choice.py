"""The choice of comparators: what the manifest declares, else what the signature suggests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.comparators import ATOL, COMPARATORS, OF_TEXT, RTOL, TIE_EPS

FLOATS: Final = frozenset({"FP16", "FP32", "FP64"})
PROBABILITY_TOLERANCE: Final = 0.1


@dataclass(frozen=True)
class Chosen:
    """How one output is compared."""

    comparison: Comparison
    # For a label: the column of each class in the probabilities; empty if a label is its own column.
    classes: dict[str, int] = field(default_factory=dict)


def choose(signature: Signature, declared: Iterable[Comparison]) -> dict[str, Chosen]:
    """Returns the comparison of every output by name.

    Raises LoadError for a declaration that names an unknown comparator or output, or one that does not fit the output.
    """
    specs = {spec.name: spec for spec in signature.outputs}
    comparisons = {spec.name: infer(spec, signature) for spec in signature.outputs}
    for comparison in declared:
        _check(comparison, specs)
        comparisons[comparison.output] = comparison
    return {name: Chosen(comparison, _classes(comparison, specs)) for name, comparison in comparisons.items()}


def infer(spec: TensorSpec, signature: Signature) -> Comparison:
    """Returns the comparison that an output's datatype, shape and meaning suggest."""
    if is_probabilities(spec):
        return Comparison(spec.name, "tv", {}, PROBABILITY_TOLERANCE)
    if spec.datatype in FLOATS:
        return Comparison(spec.name, "isclose", {"rtol": RTOL, "atol": ATOL}, 0.0)
    if len(spec.shape) <= 1 or (len(spec.shape) == 2 and spec.shape[1] == 1):
        candidates = [other.name for other in signature.outputs if is_probabilities(other)]
        # Of several there is no telling which one belongs to the label.
        if len(candidates) == 1:
            return Comparison(spec.name, "label", {"tie_eps": TIE_EPS}, 0.0, candidates[0])
        return Comparison(spec.name, "label", {}, 0.0)
    return Comparison(spec.name, "exact", {}, 0.0)


def is_probabilities(spec: TensorSpec) -> bool:
    """Whether an output holds one row of class probabilities for each row."""
    named = spec.meaning == "probabilities" or (not spec.meaning and "prob" in spec.name.lower())
    # A single column is the probability of one class, whose rows do not sum to 1.
    return named and spec.datatype in FLOATS and len(spec.shape) == 2 and spec.shape[1] != 1


def _check(comparison: Comparison, specs: dict[str, TensorSpec]) -> None:
    where = f"comparison of output {comparison.output!r}"
    for name in filter(None, (comparison.output, comparison.probabilities)):
        if name not in specs:
            raise LoadError(f"{where}: expected one of the outputs {list(specs)}, received {name!r}")
    if comparison.comparator not in COMPARATORS:
        raise LoadError(f"{where}: expected one of {', '.join(COMPARATORS)}, received {comparison.comparator!r}")
    if specs[comparison.output].datatype == "BYTES" and comparison.comparator not in OF_TEXT:
        expected = " or ".join(sorted(OF_TEXT))
        raise LoadError(f"{where}: expected {expected} for BYTES, received {comparison.comparator!r}")


def _classes(comparison: Comparison, specs: dict[str, TensorSpec]) -> dict[str, int]:
    if not comparison.probabilities:
        return {}
    names = specs[comparison.probabilities].classes or specs[comparison.output].classes
    return {name: column for column, name in enumerate(names)}
