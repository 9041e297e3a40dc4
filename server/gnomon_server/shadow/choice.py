"""The choice of comparators: what is declared, else what the signature suggests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from gnomon_server.errors import LoadError
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.comparators import COMPARATORS
from gnomon_server.shadow.decisions import Decider, decider

FLOATS: Final = frozenset({"FP16", "BF16", "FP32", "FP64"})
PROBABILITY_TOLERANCE: Final = 0.1
# The cosine of an embedding that agrees is above 0.99.
EMBEDDING_TOLERANCE: Final = 0.005
RANKING_TOLERANCE: Final = 0.1


@dataclass(frozen=True)
class Chosen:
    """How one output is compared."""

    comparison: Comparison
    # For a label: the column of each class in the probabilities; empty if a label is its own column.
    classes: dict[str, int] = field(default_factory=dict)
    decider: Decider | None = None

    @property
    def limit(self) -> float:
        """The greatest divergence that still counts as agreement."""
        return max(self.comparison.tolerance, self.comparison.floor)


def choose(signature: Signature, declared: Iterable[Comparison]) -> dict[str, Chosen]:
    """Returns the comparison of every output by name; of several declarations of one output the last one counts.

    Raises LoadError for a declaration that names an unknown comparator or output, or one that does not fit the output.
    """
    specs = {spec.name: spec for spec in signature.outputs}
    comparisons = {spec.name: infer(spec, signature) for spec in signature.outputs}
    for comparison in declared:
        _check(comparison, specs)
        comparisons[comparison.output] = comparison
    return {
        name: Chosen(comparison, _classes(comparison, specs), _decider(comparison, specs))
        for name, comparison in comparisons.items()
    }


def infer(spec: TensorSpec, signature: Signature) -> Comparison:
    """Returns the comparison that an output's datatype, shape and meaning suggest."""
    if is_probabilities(spec):
        return Comparison(spec.name, "tv", {}, PROBABILITY_TOLERANCE)
    if is_embedding(spec):
        return Comparison(spec.name, "cosine", {}, EMBEDDING_TOLERANCE)
    if spec.meaning == "ranking" and spec.datatype != "BOOL":
        return Comparison(spec.name, "rbo", {}, RANKING_TOLERANCE)
    if spec.datatype in FLOATS:
        return Comparison(spec.name, "isclose", {}, 0.0)
    if len(spec.shape) <= 1 or (len(spec.shape) == 2 and spec.shape[1] == 1):
        candidates = [other.name for other in signature.outputs if is_probabilities(other)]
        # Of several there is no telling which one belongs to the label.
        return Comparison(spec.name, "label", {}, 0.0, candidates[0] if len(candidates) == 1 else "")
    return Comparison(spec.name, "mask" if spec.datatype == "BOOL" else "exact", {}, 0.0)


def is_probabilities(spec: TensorSpec) -> bool:
    """Whether an output holds one row of class probabilities for each row."""
    named = spec.meaning == "probabilities" or (not spec.meaning and "prob" in spec.name.lower())
    # A single column is the probability of one class, whose rows do not sum to 1.
    return named and _rows_of_floats(spec)


def is_embedding(spec: TensorSpec) -> bool:
    """Whether an output holds one vector for each row, of which the direction counts."""
    named = spec.meaning == "embedding" or (not spec.meaning and "embedding" in spec.name.lower())
    # A single number has only two directions.
    return named and _rows_of_floats(spec)


def _rows_of_floats(spec: TensorSpec) -> bool:
    return spec.datatype in FLOATS and len(spec.shape) == 2 and spec.shape[1] != 1


def _check(comparison: Comparison, specs: dict[str, TensorSpec]) -> None:
    where = _where(comparison.output)
    for name in filter(None, (comparison.output, comparison.probabilities)):
        if name not in specs:
            raise LoadError(f"{where}: expected one of the outputs {list(specs)}, received {name!r}")
    if comparison.comparator not in COMPARATORS:
        raise LoadError(f"{where}: expected one of {', '.join(COMPARATORS)}, received {comparison.comparator!r}")
    datatype = specs[comparison.output].datatype
    fitting = [name for name, entry in COMPARATORS.items() if kind_of(datatype) in entry.kinds]
    if comparison.comparator not in fitting:
        raise LoadError(f"{where}: expected {', '.join(fitting)} for {datatype}, received {comparison.comparator!r}")
    if not 0 <= comparison.tolerance <= 1:
        raise LoadError(f"{where}: tolerance: expected a number from 0 to 1, received {comparison.tolerance}")
    if not 0 <= comparison.floor <= 1:
        raise LoadError(f"{where}: floor: expected a number from 0 to 1, received {comparison.floor}")
    if comparison.comparator == "decision" and comparison.decision is None:
        raise LoadError(f"{where}: expected thresholds and names of decisions, received none")
    if comparison.decision is not None and datatype not in FLOATS:
        raise LoadError(f"{where}: expected {', '.join(sorted(FLOATS))} for a decision, received {datatype}")
    _check_parameters(comparison, where)


def kind_of(datatype: str) -> str:
    """Returns the kind of a datatype's elements, as comparators name them."""
    if datatype == "BYTES":
        return "O"
    return "b" if datatype == "BOOL" else "f" if datatype in FLOATS else "i"


def _check_parameters(comparison: Comparison, where: str) -> None:
    known, given = COMPARATORS[comparison.comparator].parameters, comparison.parameters
    for name, value in given.items():
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "none"
            raise LoadError(f"{where}: parameters: expected {expected}, received {name!r}")
        least, most = known[name].least, known[name].most
        if not isfinite(value) or not least <= value <= most:
            expected = f"a number from {least:g} to {most:g}" if isfinite(most) else f"a number of at least {least:g}"
            raise LoadError(f"{where}: {name}: expected {expected}, received {value}")
    for name, parameter in known.items():
        if parameter.default is None and name not in given:
            raise LoadError(f"{where}: parameters: expected {name!r}, which has no default")


def _decider(comparison: Comparison, specs: dict[str, TensorSpec]) -> Decider | None:
    if comparison.decision is None:
        return None
    return decider(comparison.decision, specs[comparison.output], _where(comparison.output))


def _where(output: str) -> str:
    return f"comparison of output {output!r}"


def _classes(comparison: Comparison, specs: dict[str, TensorSpec]) -> dict[str, int]:
    if not comparison.probabilities:
        return {}
    names = specs[comparison.probabilities].classes or specs[comparison.output].classes
    return {name: column for column, name in enumerate(names)}
