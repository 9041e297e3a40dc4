"""Manifests for tests, as converters write them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import json_format

from gnomon_protos import manifest_pb2, tensors
from gnomon_protos.tensors import Array


def digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def golden(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> manifest_pb2.GoldenSample:
    return manifest_pb2.GoldenSample(
        inputs=[tensors.to_message(name, array) for name, array in inputs.items()],
        outputs=[tensors.to_message(name, array) for name, array in outputs.items()],
    )


def spec(name: str, datatype: str, shape: list[int], meaning: str = "") -> manifest_pb2.TensorSpec:
    return manifest_pb2.TensorSpec(name=name, datatype=datatype, shape=shape, meaning=meaning)


def write(folder: Path, message: manifest_pb2.Manifest) -> None:
    (folder / "manifest.json").write_text(json_format.MessageToJson(message))
