"""The graph of an ONNX model, its tensors renamed and its input split, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import GraphProto, helper


def rename_outputs(graph: GraphProto, names: Sequence[str]) -> None:
    """Gives the outputs these names, in order."""
    _rename(graph, dict(zip([value.name for value in graph.output], names, strict=True)))


def rename_inputs(graph: GraphProto, names: Sequence[str]) -> None:
    """Gives the inputs these names, in order; skl2onnx changes names that are not identifiers."""
    _rename(graph, dict(zip([value.name for value in graph.input], names, strict=True)))


def split_input(graph: GraphProto, names: Sequence[str]) -> None:
    """Replaces the one input [-1, len(names)] by as many of [-1, 1], joined at the start."""
    (joined,) = graph.input
    datatype = joined.type.tensor_type.elem_type
    rename_inputs(graph, [_unused(graph, "joined", names)])
    node = helper.make_node("Concat", list(names), [joined.name], name=joined.name, axis=1)
    _rename(graph, {name: name for name in names})
    del graph.input[:]
    graph.input.extend(helper.make_tensor_value_info(name, datatype, [None, 1]) for name in names)
    graph.node.insert(0, node)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Renames tensors; another tensor that has one of the new names already gets an unused one."""
    taken = _tensors(graph)
    moved = {new: _unused(graph, new, [*names.values()]) for new in names.values() if new in taken and new not in names}
    _apply(graph, {**moved, **names})


def _apply(graph: GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _apply(inner, names)


def _unused(graph: GraphProto, seed: str, others: Sequence[str]) -> str:
    taken = {*_tensors(graph), *others}
    return next(name for name in (f"{seed}_{i}" for i in range(1, len(taken) + 2)) if name not in taken)


def _tensors(graph: GraphProto) -> set[str]:
    """Returns every name in the graph, those of inner graphs included."""
    values: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    names = {value.name for value in values}
    for node in graph.node:
        names.update(node.input, node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                names |= _tensors(inner)
    return names
