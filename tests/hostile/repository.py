"""The models under siege: one a kind of tensor that a request can get wrong."""

from __future__ import annotations

from pathlib import Path

import onnx_models as models
from onnx import TensorProto


def write(folder: Path) -> Path:
    """Writes them."""
    models.write(folder, "line", 1, models.affine(2.0))
    models.write(folder, "sum", 1, models.added())
    models.write(folder, "texts", 1, models.identity(TensorProto.STRING))
    models.write(folder, "truths", 1, models.identity(TensorProto.BOOL))
    models.write(folder, "small", 1, models.identity(TensorProto.INT8))
    models.write(folder, "scalar", 1, models.identity(shape=()))
    models.write(folder, "free", 1, models.identity(shape=("rows", "columns")))
    models.write(folder, "raising", 1, models.raising())
    return folder
