"""Signatures as children describe them to control: the tensors that a version takes and gives."""

from __future__ import annotations

import msgspec


class Tensor(msgspec.Struct, frozen=True):
    """One declared tensor, as models.signature.TensorSpec is one; -1 in its shape is a free dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    optional: bool = False
    ranked: bool = True


class Tensors(msgspec.Struct, frozen=True):
    """What a version takes and gives; a shadow, in its primary's terms."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
