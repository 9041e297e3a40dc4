"""Compatibility: whether, and how, a mirrored request can be run by a shadow and compared.

Decided once for each layout of tensors, since clients send the same few again and again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, NamedTuple

from gnomon_protos import inference_pb2 as pb
from gnomon_server.models.fit import kind_of
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.outline import Outline

# A client may vary its shapes without end, and add to its tensors what nobody knows.
REMEMBERED: Final = 1024
MOST_BYTES: Final = 4096


class Tensor(NamedTuple):
    """One tensor as it travelled."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Layout(NamedTuple):
    """The tensors of one request and of its answer, without their contents."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    raw_inputs: bool
    raw_outputs: bool


@dataclass(frozen=True)
class Fit:
    """How a layout fits a shadow."""

    layout: Layout
    # Why it cannot be compared; empty if it can.
    reason: str = ""
    # Whether the first dimension of every tensor is the batch; otherwise the whole answer is one row.
    rowwise: bool = False
    rows: int = 1
    # Requests with the same group may share a run; None: this one runs alone.
    group: Hashable = None


class Fits:
    """The decisions for one shadow, remembered by what the tensors say."""

    def __init__(self, signature: Signature, coalescable: bool) -> None:
        self._signature = signature
        self._coalescable = coalescable
        self._decided: dict[Hashable, Fit] = {}
        # A number for each group, since it is cheaper to compare than what it stands for.
        self._groups: dict[Hashable, int] = {}
        self._numbers = count()

    def of(self, request: Outline, response: Outline) -> Fit:
        """Returns how a request and its answer fit; raises DecodeError if a tensor is not well formed."""
        # Slices: protobuf gives them at once, and an iterator element by element.
        inputs, outputs = tuple(request.tensors[:]), tuple(response.tensors[:])
        raw_inputs, raw_outputs = len(request.raw) == len(inputs), len(response.raw) == len(outputs)
        if not (raw_inputs and raw_outputs):
            # Typed contents are part of the tensors, so that they would hardly ever be seen again.
            return self._decide(inputs, outputs, raw_inputs, raw_outputs)
        key = (inputs, outputs)
        found = self._decided.get(key)
        if found is None:
            found = self._decide(inputs, outputs, raw_inputs, raw_outputs)
            if sum(map(len, inputs)) <= MOST_BYTES:
                if len(self._decided) >= REMEMBERED:
                    self._decided.clear()
                self._decided[key] = found
        return found

    def _decide(self, inputs: Iterable[bytes], outputs: Iterable[bytes], raw_inputs: bool, raw_outputs: bool) -> Fit:
        received = (pb.ModelInferRequest.InferInputTensor.FromString(data) for data in inputs)
        answered = (pb.ModelInferResponse.InferOutputTensor.FromString(data) for data in outputs)
        layout = Layout(
            tuple(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in received),
            tuple(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in answered),
            raw_inputs,
            raw_outputs,
        )
        fit = decide(layout, self._signature, self._coalescable)
        if fit.group is None:
            return fit
        if fit.group not in self._groups:
            if len(self._groups) >= REMEMBERED:
                self._groups.clear()
            # Never one that was given before: what waits for its run may still have it.
            self._groups[fit.group] = next(self._numbers)
        return replace(fit, group=self._groups[fit.group])


def decide(layout: Layout, signature: Signature, coalescable: bool) -> Fit:
    """Returns how a layout fits a signature; `coalescable` says whether the shadow's rows are independent."""
    reason = _inputs_differ(layout.inputs, signature.inputs) or _outputs_differ(layout.outputs, signature.outputs)
    if reason:
        return Fit(layout, reason)
    # An optional input need not have the rows of the others.
    optional = any(signature.input_specs[tensor.name].optional for tensor in layout.inputs)
    first = {tensor.shape[:1] for tensor in (*layout.inputs, *layout.outputs)}
    if not signature.batched or len(first) != 1 or first == {()}:
        return Fit(layout)
    ((rows,),) = first
    group = _group(layout) if coalescable and rows and not optional else None
    return Fit(layout, rowwise=True, rows=rows, group=group)


def _inputs_differ(received: Iterable[Tensor], specs: Iterable[TensorSpec]) -> str:
    expected = {spec.name: spec for spec in specs}
    for tensor in received:
        spec = expected.pop(tensor.name, None)
        if spec is None:
            return f"input {tensor.name!r} is unknown to the shadow, or given twice"
        if tensor.datatype != spec.datatype or not spec.accepts(tensor.shape):
            return f"input {tensor.name!r}: the shadow expects {_shown(spec)}, received {_shown(tensor)}"
    missing = next((spec.name for spec in expected.values() if not spec.optional), None)
    return "" if missing is None else f"input {missing!r} of the shadow is missing"


def _outputs_differ(received: tuple[Tensor, ...], specs: Iterable[TensorSpec]) -> str:
    """An output that the shadow lacks would be missed after its promotion; one that it adds would not."""
    expected = {spec.name: spec for spec in specs}
    for tensor in received:
        spec = expected.pop(tensor.name, None)
        if spec is None:
            return f"output {tensor.name!r} is unknown to the shadow"
        # The sizes are left to the comparison: a shadow that answers with other ones diverges.
        other_rank = spec.ranked and len(tensor.shape) != len(spec.shape)
        if kind_of(tensor.datatype) != kind_of(spec.datatype) or other_rank:
            return f"output {tensor.name!r}: the shadow gives {_shown(spec)}, the primary {_shown(tensor)}"
    return "" if received else "the primary gave no output"


def _group(layout: Layout) -> Hashable:
    tails = [tuple((name, datatype, shape[1:]) for name, datatype, shape in part) for part in layout[:2]]
    return (*tails, layout.raw_inputs, layout.raw_outputs)


def _shown(tensor: Tensor | TensorSpec) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}"
