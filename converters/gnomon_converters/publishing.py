"""Publishing: from a model in memory to a verified version in a repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gnomon_converters import document
from gnomon_converters import repository as folders
from gnomon_converters import sample as samples
from gnomon_converters.document import Conversion
from gnomon_converters.errors import ConversionError
from gnomon_converters.frameworks import Original, converter_of, missing, type_name
from gnomon_converters.runtime import Runtime
from gnomon_converters.sample import Sample
from gnomon_converters.verification import Verification, verify
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

    def manifest(number: int) -> tuple[str, str]:
        return document.MANIFEST, document.to_json(document.manifest(conversion, name, number, golden, origin))

    folder, number = folders.write(root, name, version, (document.MODEL, conversion.model), manifest)
    return Published(
        name, number, folder, conversion.digest, conversion.verification, dict(original.metrics), len(golden)
    )


def _labels(labels: Any, rows: Sample) -> Array | None:
    if labels is None:
        return None
    array = np.asarray(labels)
    if len(array) != rows.rows:
        raise ConversionError(f"labels: expected one for each of {rows.rows} rows, received {len(array)}")
    return array


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
