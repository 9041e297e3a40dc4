"""Publishing: from a model in memory to a verified version in a repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gnomon_converters import document, profiling
from gnomon_converters import repository as folders
from gnomon_converters import sample as samples
from gnomon_converters.document import Conversion
from gnomon_converters.errors import ConversionError
from gnomon_converters.frameworks import Original, converter_of, missing, type_name
from gnomon_converters.runtime import Runtime
from gnomon_converters.sample import Sample
from gnomon_converters.verification import Verification, verify
from gnomon_protos.profile_pb2 import Profile
from gnomon_protos.tensors import Array

# Rows of the sample that also run alone.
ALONE_ROWS: Final = 128


@dataclass(frozen=True)
class Published:
    """A version that is in the repository now."""

    name: str
    version: int
    folder: Path
    # "sha256:" and the hexadecimal digest of model.onnx.
    digest: str
    verification: Verification
    # On the labels given with the sample.
    metrics: Mapping[str, float]
    golden_rows: int
    # Features and outputs whose drift is watched; 0 where the reference has too few rows.
    profiled: int


def publish(
    model: Any,
    *,
    name: str,
    repository: str | Path,
    sample: Any,
    labels: Any = None,
    version: int | None = None,
    tolerance: float | None = None,
    description: str = "",
    author: str = "",
    source_digest: str = "",
    reference: Any = None,
    reference_times: Any = None,
    window: float = 86400.0,
) -> Published:
    """Converts a trained model to ONNX, verifies it on the sample, and writes <repository>/<name>/<version>/.

    `sample` is a pandas DataFrame, which gives one input a column of shape [-1, 1], or an array [rows, features], which
    gives the one input "input" of shape [-1, features]. Numbers are FP32 (whole numbers must fit exactly, missing ones
    are NaN), text is BYTES (a missing one is empty). Up to 8 of its rows are kept in the manifest as golden sample. Use
    rows that training did not see, a few thousand of them: a disagreement of one row in a thousand needs as many to
    show.

    `labels`, one for each row, add metrics to the manifest. Without `version` it is the one after the highest. The
    converted model must give what the original gives for the sample as it stands: probabilities within 1e-4, values
    within 1e-4 of their size, labels equal except between classes whose probabilities are within 1e-6. `tolerance`
    sets another absolute difference. `author` is the user's name unless given.

    `reference` holds rows of the same form as they are usual, best those of the training, by which the traffic's drift
    is judged; without it, the sample. `reference_times`, one for each of its rows, are dates or seconds: windows of so
    many seconds within the reference then say how much drift is usual.

    Raises ConversionError, and leaves the repository as it was, if the model cannot be converted, loaded or run, or if
    any row disagrees.
    """
    root = Path(repository)
    folders.check(root, name, version)
    if sample is None:
        raise ConversionError("a sample is needed: without rows to compare nothing proves the converted model")
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise ConversionError(f"tolerance: expected a number of at least 0, received {tolerance}")
    converter = converter_of(model)
    rows = samples.read(sample, converter.feature_names(model))
    original = converter.original(model, rows, _labels(labels, rows))
    conversion = _verified(converter.conversions(model, rows, original), rows, original, tolerance)
    golden = document.golden_rows(original, rows.rows)
    origin = document.lineage(
        conversion,
        source_type=type_name(model),
        packages=converter.PACKAGES,
        author=author,
        description=description,
        source=source_digest,
    )

    usual = rows if reference is None else _reference(reference, rows, converter.feature_names(model))
    profile = _profile(conversion, usual, reference_times, window)
    files = {document.MODEL: conversion.model}
    if profile is not None:
        files[document.PROFILE] = profiling.to_json(profile)

    def manifest(number: int) -> tuple[str, str]:
        made = document.manifest(conversion, name, number, golden, origin, files.get(document.PROFILE))
        return document.MANIFEST, document.to_json(made)

    folder, number = folders.write(root, name, version, files, manifest)
    return Published(
        name,
        number,
        folder,
        conversion.digest,
        conversion.verification,
        dict(original.metrics),
        len(golden),
        len(profile.features) if profile is not None else 0,
    )


def _labels(labels: Any, rows: Sample) -> Array | None:
    if labels is None:
        return None
    array = np.asarray(labels)
    if len(array) != rows.rows:
        raise ConversionError(f"labels: expected one for each of {rows.rows} rows, received {len(array)}")
    return array


def _reference(data: Any, sample: Sample, features: Sequence[str] | None) -> Sample:
    """Returns the reference; raises ConversionError where it is not of the sample's form."""
    try:
        reference = samples.read(data, features if features is not None or not sample.named else list(sample.tensors))
    except ConversionError as error:
        raise ConversionError(f"the reference: {error}") from None
    for name, array in sample.tensors.items():
        other = reference.tensors.get(name)
        if other is None or (other.dtype, other.shape[1:]) != (array.dtype, array.shape[1:]):
            received = "none" if other is None else f"{other.dtype} {list(other.shape[1:])}"
            expected = f"{array.dtype} {list(array.shape[1:])}"
            raise ConversionError(f"the reference's input {name!r}: expected {expected} a row, received {received}")
    return reference


def _profile(conversion: Conversion, reference: Sample, times: Any, window: float) -> Profile | None:
    if not 0 < window < float("inf"):
        raise ConversionError(f"window: expected a positive number of seconds, received {window}")
    seconds = None if times is None else profiling.seconds(times)
    if seconds is not None and len(seconds) != reference.rows:
        raise ConversionError(f"times: expected one for each of {reference.rows} rows, received {len(seconds)}")
    received = conversion.received
    if reference is not conversion.sample:
        received = Runtime(conversion.model).run(reference.tensors)
    return profiling.profile(reference.tensors, conversion.original, received, seconds, window)


def _verified(conversions: Iterator[bytes], sample: Sample, original: Original, tolerance: float | None) -> Conversion:
    """Returns the first conversion that agrees; raises ConversionError with the numbers of the best if none does."""
    failed: list[Verification] = []
    try:
        for model in conversions:
            conversion = _tried(model, sample, original, tolerance)
            if conversion.verification.passed:
                return conversion
            failed.append(conversion.verification)
    except ModuleNotFoundError as error:
        raise missing(error) from None
    best = min(failed, key=lambda verification: verification.rows_over_tolerance)
    remedy = "cast the training data and the sample to float32, or accept the difference with a higher tolerance"
    raise ConversionError(f"the converted model disagrees with the original: {best.explain()}: {remedy}")


def _tried(model: bytes, sample: Sample, original: Original, tolerance: float | None) -> Conversion:
    runtime = Runtime(model)
    received = runtime.run(sample.tensors)
    agreement = verify(original, received, tolerance, runtime.run_alone(sample.tensors, ALONE_ROWS))
    return Conversion(model, runtime.inputs, runtime.outputs, sample, original, received, agreement)
