"""The manifest of a conversion: what manifest.json says of the version, for the server and for people."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Final

import numpy as np
from google.protobuf import json_format

from gnomon_converters import floor
from gnomon_converters.frameworks import Expected, Original
from gnomon_converters.runtime import Port
from gnomon_converters.sample import Sample
from gnomon_converters.verification import OutputAgreement, Verification
from gnomon_protos import manifest_pb2, tensors
from gnomon_protos.tensors import Array

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MODEL: Final = "model.onnx"
PROFILE: Final = "profile.json"
GOLDEN_ROWS: Final = 8
# A golden row's two likeliest classes are this far apart, so that no other machine's arithmetic turns its label.
CLEAR: Final = 1e-3
RUNTIME_PACKAGES: Final = ("numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Conversion:
    """A model converted and verified: all that its manifest tells."""

    model: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sample: Sample
    original: Original
    # The converted model's outputs for the whole sample.
    received: Mapping[str, Array]
    verification: Verification

    @property
    def digest(self) -> str:
        """Digest of the model file, "sha256:..."."""
        return _digest(self.model)


def lineage(
    conversion: Conversion, *, source_type: str, packages: tuple[str, ...], author: str, description: str, source: str
) -> manifest_pb2.Lineage:
    """Returns where a version comes from: when, who, which commit, which source, which libraries, how good."""
    return manifest_pb2.Lineage(
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        author=author or _user(),
        git_commit=_commit(),
        source_type=source_type,
        source_digest=source,
        sample_digest=conversion.sample.digest(),
        framework_versions={
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in (*packages, *RUNTIME_PACKAGES)},
        },
        metrics=dict(conversion.original.metrics),
        description=description,
    )


def manifest(
    conversion: Conversion,
    name: str,
    version: int,
    golden: Array,
    origin: manifest_pb2.Lineage,
    profile: bytes | None = None,
) -> manifest_pb2.Manifest:
    """Returns the manifest; `golden` holds the numbers of the sample's rows that it keeps, `profile` is a file."""
    expected = {output.name: output for output in conversion.original.outputs}
    agreement = {output.output: output for output in conversion.verification.outputs}
    return manifest_pb2.Manifest(
        format=FORMAT,
        name=name,
        version=version,
        model_file=MODEL,
        model_digest=conversion.digest,
        signature=manifest_pb2.Signature(
            inputs=[_spec(port, "feature") for port in conversion.inputs],
            outputs=[_spec(port, expected[port.name].meaning, expected[port.name]) for port in conversion.outputs],
        ),
        comparisons=[
            floor.comparison(output, conversion.original, agreement) for output in conversion.original.outputs
        ],
        golden_sample=manifest_pb2.GoldenSample(
            inputs=[tensors.to_message(key, array[golden]) for key, array in conversion.sample.tensors.items()],
            outputs=[
                tensors.to_message(port.name, conversion.received[port.name][golden]) for port in conversion.outputs
            ],
        ),
        verification=manifest_pb2.Verification(
            rows=conversion.verification.rows,
            outputs=[_agreement(output) for output in conversion.verification.outputs],
        ),
        lineage=origin,
        profile_file=PROFILE if profile is not None else "",
        profile_digest=_digest(profile) if profile is not None else "",
    )


def to_json(message: manifest_pb2.Manifest) -> str:
    """Returns the text of manifest.json: protobuf's JSON form, named as in the proto, zeros written out, indented."""
    text: str = json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, ensure_ascii=False
    )
    return text + "\n"


def golden_rows(original: Original, rows: int) -> Array:
    """Returns up to 8 row numbers, evenly spread over those whose label is clear."""
    likely = [output.values for output in original.outputs if output.meaning == "probabilities"]
    clear = np.arange(rows)
    if likely and likely[0].shape[1] > 1:
        best = np.sort(likely[0], axis=1)
        clear = np.flatnonzero(best[:, -1] - best[:, -2] > CLEAR)
    if not len(clear):
        clear = np.arange(rows)
    chosen: Array = clear[np.unique(np.linspace(0, len(clear) - 1, GOLDEN_ROWS).astype(np.int64))]
    return chosen


def _spec(port: Port, meaning: str, expected: Expected | None = None) -> manifest_pb2.TensorSpec:
    classes = expected.classes if expected else ()
    return manifest_pb2.TensorSpec(
        name=port.name, datatype=port.datatype, shape=port.shape, meaning=meaning, classes=classes
    )


def _agreement(output: OutputAgreement) -> manifest_pb2.OutputAgreement:
    return manifest_pb2.OutputAgreement(
        output=output.output,
        max_difference=output.max_difference,
        tolerance=output.tolerance,
        rows_over_tolerance=output.rows_over_tolerance,
        label_flips=output.label_flips,
        tied_rows=output.tied_rows,
        batch_difference=output.batch_difference,
    )


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run as a number that has no name.
        return f"uid {os.getuid()}"


def _commit() -> str:
    """Returns the commit of the working directory; empty where there is none."""
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [git, "rev-parse", "--verify", "--quiet", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
