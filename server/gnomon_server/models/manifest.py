"""The manifest of a version: what manifest.json beside the model declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import json_format

from gnomon_protos import manifest_pb2, tensors
from gnomon_server.errors import LoadError
from gnomon_server.models.signature import Signature, TensorSpec

FILE = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Decision:
    """What is decided by a score: below the first threshold the first decision, from there on the second, and so on."""

    # Ascending.
    thresholds: tuple[float, ...]
    # One more than thresholds.
    names: tuple[str, ...]
    # The class whose probability is the score, or its column; empty: the last column.
    score: str = ""
    # What it costs to change a decision, by (primary's, shadow's).
    costs: Mapping[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """How one output of a shadow is compared with its primary's."""

    output: str
    comparator: str
    parameters: Mapping[str, float]
    # Greatest divergence of a row, in [0, 1], that still counts as agreement.
    tolerance: float
    # For labels: the output that holds the class probabilities by which a tie is recognised.
    probabilities: str = ""
    # Counted beside the divergence, whatever the comparator.
    decision: Decision | None = None
    # Divergence of a row that arithmetic alone explains: it agrees, whatever the tolerance.
    floor: float = 0.0


@dataclass(frozen=True)
class Manifest:
    """A version's declaration; a version without a manifest has the empty one."""

    model_file: str = "model.onnx"
    # "sha256:..." or empty if nothing is declared.
    digest: str = ""
    signature: Signature | None = None
    comparisons: tuple[Comparison, ...] = ()
    golden_inputs: Mapping[str, tensors.Array] = field(default_factory=dict)
    golden_outputs: Mapping[str, tensors.Array] = field(default_factory=dict)


def read(folder: Path) -> Manifest:
    """Returns the manifest of a version's folder; raises LoadError if there is one that cannot be read."""
    found = message(folder)
    if not found.ByteSize() and not (folder / FILE).exists():
        return Manifest()
    try:
        return _from_message(found)
    except tensors.TensorError as error:
        raise LoadError(f"{FILE} is not a manifest: {error}") from None


def message(folder: Path) -> manifest_pb2.Manifest:
    """Returns the manifest as it is written, empty where there is none; raises LoadError if it cannot be read."""
    try:
        text = (folder / FILE).read_text()
    except FileNotFoundError:
        return manifest_pb2.Manifest()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{FILE} cannot be read: {error}") from None
    try:
        return json_format.Parse(text, manifest_pb2.Manifest(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise LoadError(f"{FILE} is not a manifest: {error}") from None


def _from_message(message: manifest_pb2.Manifest) -> Manifest:
    if message.format > FORMAT:
        raise LoadError(f"{FILE}: expected format {FORMAT}, received {message.format}: upgrade the server")
    if message.model_file in ("", "..") or Path(message.model_file).name != message.model_file:
        raise LoadError(f"{FILE}: model_file: expected a file name, received {message.model_file!r}")
    signature = Signature(
        tuple(_spec(spec) for spec in message.signature.inputs),
        tuple(_spec(spec) for spec in message.signature.outputs),
    )
    return Manifest(
        model_file=message.model_file,
        digest=message.model_digest,
        signature=signature if signature.inputs or signature.outputs else None,
        comparisons=tuple(_comparison(entry) for entry in message.comparisons),
        golden_inputs={tensor.name: _array(tensor) for tensor in message.golden_sample.inputs},
        golden_outputs={tensor.name: _array(tensor) for tensor in message.golden_sample.outputs},
    )


def _comparison(entry: manifest_pb2.Comparison) -> Comparison:
    decision = entry.decision
    return Comparison(
        output=entry.output,
        comparator=entry.comparator,
        parameters=dict(entry.parameters),
        tolerance=entry.tolerance,
        floor=entry.floor,
        probabilities=entry.probabilities,
        decision=Decision(
            thresholds=tuple(decision.thresholds),
            names=tuple(decision.names),
            score=decision.score,
            costs={(flip.before, flip.after): flip.cost for flip in decision.costs},
        )
        if entry.HasField("decision")
        else None,
    )


def _spec(spec: manifest_pb2.TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.datatype, tuple(spec.shape), spec.meaning, tuple(spec.classes))


def _array(tensor: manifest_pb2.Tensor) -> tensors.Array:
    array = tensors.from_message(tensor)
    return tensors.to_text(array) if tensor.datatype == "BYTES" else array
