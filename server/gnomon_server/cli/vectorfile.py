"""Test vectors as a table, as JSON and as a recording."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gnomon_protos import tensors
from gnomon_protos.tensors import Array
from gnomon_server.cli.both import NEVER, Both
from gnomon_server.cli.vectors import Change, Found, Vector, plain
from gnomon_server.errors import InvalidRequest
from gnomon_server.shadow import recording
from gnomon_server.shadow.recording import MAGIC, SUFFIX, Head


def table(found: Found) -> RenderableType:
    """Returns one line a vector."""
    if not found.vectors:
        return Text("No divergent request could be shrunk.")
    lines = Table("trace", "divergence", "differs from a typical row in", box=None, pad_edge=False)
    for vector in found.vectors:
        worst = ", ".join(f"{name} {value:.3g}" for name, value in _divergences(vector).items())
        changes = "; ".join(f"{_place(one)}: {_short(one.typical)} -> {_short(one.value)}" for one in vector.changes)
        more = "" if vector.minimal else " (perhaps fewer would do)"
        lines.add_row(vector.trace_id, escape(worst), escape((changes or "its shape") + more))
    return lines


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _place(change: Change) -> str:
    return change.input + "".join(f"[{index}]" for index in change.index)


def _divergences(vector: Vector) -> dict[str, float]:
    return {name: float(values.max(initial=0)) for name, values in vector.compared.divergences.items()}


def to_json(both: Both, found: Found) -> str:
    """Returns the vectors as `docs/recording.md` describes them."""
    versions = {
        role: {"version": version.version, "digest": version.digest}
        for role, version in (("primary", both.primary), ("shadow", both.shadow))
    }
    return json.dumps(
        {
            "model": both.primary.model,
            **versions,
            "typical": _tensors(found.typical),
            "withheld": found.withheld,
            "agreeing": found.agreeing,
            "vectors": [_as_json(vector) for vector in found.vectors],
        },
        indent=2,
    )


def _as_json(vector: Vector) -> dict[str, Any]:
    values = vector.compared.values
    return {
        "trace_id": vector.trace_id,
        "minimal": vector.minimal,
        "changes": [
            {"input": one.input, "index": list(one.index), "typical": one.typical, "value": one.value}
            for one in vector.changes
        ],
        "divergences": _divergences(vector),
        "inputs": _tensors(vector.inputs),
        "primary_outputs": _tensors(values.primary if values is not None else {}),
        "shadow_outputs": _tensors(values.shadow if values is not None else {}),
    }


def _tensors(arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": tensors.datatype_of(array), "shape": list(array.shape), "values": plain(array)}
        for name, array in arrays.items()
    ]


def save(both: Both, found: Found, folder: Path) -> tuple[Path, Path]:
    """Writes the vectors as a recording with the primary's answers, and as JSON; raises InvalidRequest."""
    name = f"{both.primary.model}-{both.primary.version}-{both.shadow.version}"
    paths = folder / f"{name}{SUFFIX}", folder / f"{name}.json"
    head = Head(both.primary.model, both.shadow.version, both.shadow.digest, NEVER)
    runs = [run for one in found.vectors for run in recording.runs([one.record], [one.compared])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(paths[0], MAGIC + recording.encode(head) + b"".join(map(recording.encode, runs)))
        _write(paths[1], (to_json(both, found) + "\n").encode())
    except OSError as error:
        raise InvalidRequest(f"{folder}: cannot be written: {error.strerror}") from None
    return paths


def _write(path: Path, data: bytes) -> None:
    # Values of users: nobody else may read them.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
