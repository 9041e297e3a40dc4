"""The fit of a shadow: in what its signature differs from its primary's, beyond what was declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.wire.signatures import Tensor, Tensors


def described(signature: Signature) -> Tensors:
    """Returns a signature as children describe it to control."""
    return Tensors(tuple(map(_tensor, signature.inputs)), tuple(map(_tensor, signature.outputs)))


def differences(primary: Tensors, shadow: Tensors) -> tuple[str, ...]:
    """Returns each tensor that keeps the primary's requests from being compared: its name, expected and received.

    Sizes that one of the two leaves free fit, and so does an output that only the shadow has.
    """
    return (*_inputs(primary.inputs, shadow.inputs), *_outputs(primary.outputs, shadow.outputs))


def _inputs(expected: tuple[Tensor, ...], received: tuple[Tensor, ...]) -> Iterator[str]:
    own, theirs = _named(received), _named(expected)
    for tensor in expected:
        other = own.get(tensor.name)
        if other is None:
            yield f"input '{tensor.name}': expected {_shown(tensor)}, received none"
        elif other.datatype != tensor.datatype or not _overlap(tensor, other):
            yield f"input '{tensor.name}': expected {_shown(tensor)}, received {_shown(other)}"
    for tensor in received:
        if not tensor.optional and (tensor.name not in theirs or theirs[tensor.name].optional):
            may = "an optional one" if tensor.name in theirs else "none"
            yield f"input '{tensor.name}': expected {may}, received {_shown(tensor)}, which is required"


def _outputs(expected: tuple[Tensor, ...], received: tuple[Tensor, ...]) -> Iterator[str]:
    own = _named(received)
    for tensor in expected:
        other = own.get(tensor.name)
        if other is None:
            yield f"output '{tensor.name}': expected {_shown(tensor)}, received none"
        # The sizes are left to the comparison: a shadow that answers with other ones diverges.
        elif kind_of(other.datatype) != kind_of(tensor.datatype) or _other_rank(tensor, other):
            yield f"output '{tensor.name}': expected {_shown(tensor)}, received {_shown(other)}"
        # Of scores by class; a label is compared by what it says.
        elif len(tensor.shape) > 1 and tensor.classes and other.classes and tensor.classes != other.classes:
            yield f"output '{tensor.name}': expected classes {list(tensor.classes)}, received {list(other.classes)}"


def kind_of(datatype: str) -> str:
    """Returns the kind of a datatype: outputs of one kind are compared whatever their sizes."""
    if datatype == "BF16":
        return "FP"
    return datatype.removeprefix("U").rstrip("0123456789") if datatype != "BYTES" else datatype


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether there is a shape that both take."""
    if not (one.ranked and other.ranked):
        return True
    return not _other_rank(one, other) and all(
        -1 in sizes or sizes[0] == sizes[1] for sizes in zip(one.shape, other.shape, strict=True)
    )


def _other_rank(one: Tensor, other: Tensor) -> bool:
    return one.ranked and other.ranked and len(one.shape) != len(other.shape)


def _named(tensors: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


def _shown(tensor: Tensor) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}" if tensor.ranked else f"{tensor.datatype} of any shape"


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(spec.name, spec.datatype, spec.shape, spec.classes, spec.optional, spec.ranked)
