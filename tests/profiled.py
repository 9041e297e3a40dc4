"""Profiles for the tests on drift, and the counts of windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import json_format

from gnomon_protos.profile_pb2 import Feature, Profile, Values
from gnomon_server.models import profile
from gnomon_server.wire.drift import WindowCounts, WindowKey

# Two inputs of the Adder and what it gives: 0 and 1 as often, in 10,000 rows.
FEATURES = (
    Feature(name="x[0]", tensor="x", column=0, values=Values(values=[0, 1]), counts=[5000, 5000, 0, 0], unseen=0.0002),
    Feature(name="x[1]", tensor="x", column=1, values=Values(values=[0]), counts=[10000, 0, 0], unseen=0.0002),
    Feature(
        name="sum", tensor="sum", output=True, values=Values(values=[0, 1]), counts=[5000, 5000, 0, 0], unseen=0.0002
    ),
)
EVEN = (500, 500, 0, 0, 1000, 0, 0, 500, 500, 0, 0)
SHIFTED = (950, 50, 0, 0, 1000, 0, 0, 950, 50, 0, 0)


def known(features: Sequence[Feature] = FEATURES, digest: str = "sha256:p") -> profile.Known:
    """Returns a profile as it is read."""
    return profile.Known(digest, Profile(rows=10000, features=features))


def write(folder: Path, features: Sequence[Feature] = FEATURES) -> str:
    """Writes a profile and a manifest that names it into a version's folder; returns the profile's digest."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json_format.MessageToJson(Profile(rows=10000, features=features))
    digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    (folder / "profile.json").write_text(text)
    manifest = {"format": 1, "model_file": "model.onnx", "profile_file": "profile.json", "profile_digest": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return digest


def window(
    number: int, counts: Sequence[int], shadow: int = 2, digest: str = "sha256:p", seconds: float = 60.0
) -> WindowCounts:
    """Returns the counts of a window of version 1 of model m."""
    key = WindowKey("m", 1, digest, seconds, number, shadow)
    return WindowCounts(key, np.array(counts, "<i8").tobytes())
