"""Divergent requests as a table and as JSON, with the values that were kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, Final

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gnomon_protos import control_pb2, tensors

# Characters of one tensor in the table.
SHOWN: Final = 60


def table(requests: Iterable[control_pb2.DivergentRequest]) -> RenderableType:
    """Returns one line a request."""
    found = list(requests)
    if not found:
        return Text("No divergent request is kept.")
    lines = Table("time", "trace", "divergence", "inputs", "primary", "shadow", box=None, pad_edge=False)
    for one in found:
        worst = ", ".join(f"{name} {value:.3g}" for name, value in sorted(one.divergences.items()))
        sides = (_shown(side) for side in (one.inputs, one.primary_outputs, one.shadow_outputs))
        lines.add_row(one.time, one.trace_id, escape(worst), *map(escape, sides))
    return lines


def to_json(requests: Iterable[control_pb2.DivergentRequest]) -> str:
    """Returns the requests as a JSON array; a tensor without values was withheld."""
    found = [
        {
            "time": one.time,
            "trace_id": one.trace_id,
            "primary": one.primary,
            "shadow": one.shadow,
            "divergences": dict(one.divergences),
            "rows": one.rows,
            "inputs": [_plain(kept) for kept in one.inputs],
            "primary_outputs": [_plain(kept) for kept in one.primary_outputs],
            "shadow_outputs": [_plain(kept) for kept in one.shadow_outputs],
        }
        for one in requests
    ]
    return json.dumps(found, indent=2)


def _plain(kept: control_pb2.KeptTensor) -> dict[str, Any]:
    tensor = kept.tensor
    plain: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    return plain if kept.withheld else {**plain, "values": _values(kept)}


def _shown(side: Iterable[control_pb2.KeptTensor]) -> str:
    return "; ".join(f"{kept.tensor.name} {_text(kept)}" for kept in side)


def _text(kept: control_pb2.KeptTensor) -> str:
    text = "withheld" if kept.withheld else json.dumps(_short(_values(kept)))
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _values(kept: control_pb2.KeptTensor) -> Any:
    array = tensors.from_message(kept.tensor)
    return strict((tensors.to_text(array) if kept.tensor.datatype == "BYTES" else tensors.widened(array)).tolist())


def _short(value: Any) -> Any:
    """Returns nested lists with as many digits as somebody reads; JSON has all."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def strict(value: Any) -> Any:
    """Returns nested lists with what JSON has no number for as ProtoJSON writes it."""
    if isinstance(value, list):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
