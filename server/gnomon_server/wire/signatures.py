"""Signatures as children describe them to control: the tensors that a version takes and gives."""

from __future__ import annotations

from operator import attrgetter

import msgspec


class Tensor(msgspec.Struct, frozen=True):
    """One declared tensor, as models.signature.TensorSpec is one; -1 in its shape is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    optional: bool = False
    ranked: bool = True

    def __str__(self) -> str:
        """Returns its name, datatype and shape."""
        return f"{self.name} {self.datatype} {list(self.shape) if self.ranked else 'any'}"


class Tensors(msgspec.Struct, frozen=True):
    """What a version takes and gives; a shadow, in its primary's terms."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    def __str__(self) -> str:
        """Returns names, datatypes and shapes in one line, whatever their order."""
        sides = (sorted(side, key=attrgetter("name")) for side in (self.inputs, self.outputs))
        return " -> ".join(", ".join(map(str, side)) for side in sides)
