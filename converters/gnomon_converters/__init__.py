"""Turns a trained model into a version that gnomon serves: converted, verified against the original, documented.

Importing it loads no framework: scikit-learn, skl2onnx, onnx and onnxruntime are imported once a model is published.
"""

from __future__ import annotations

import os

# onnxruntime reports home from 1.29 on unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from gnomon_converters.errors import ConversionError
from gnomon_converters.frameworks import CONVERTERS
from gnomon_converters.publishing import Published, publish
from gnomon_converters.verification import OutputAgreement, Verification

__all__ = ["CONVERTERS", "ConversionError", "OutputAgreement", "Published", "Verification", "publish"]
