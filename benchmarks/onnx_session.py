"""An onnxruntime session as everyone here opens it, in environments that hold little else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# onnxruntime reports home from 1.29 on unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


def open_session(file: Path | str) -> Any:
    """Returns a session set up for small models: one thread, which never spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
