"""The declaration of a shadow that runs elsewhere: without a manifest, it is compared as its primary's says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gnomon_server.models import manifest
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.trial import Shadow
from gnomon_server.wire.plans import VersionRef


def declare(shadow: Shadow, primary: VersionRef) -> None:
    """Gives a shadow the meanings, classes and comparators that its primary's manifest has for outputs it gives too.

    What was declared of the shadow itself goes before. Raises LoadError if the manifest cannot be read.
    """
    found = manifest.read(Path(primary.folder))
    specs = {spec.name: spec for spec in found.signature.outputs} if found.signature is not None else {}
    outputs = tuple(_meant(spec, specs.get(spec.name)) for spec in shadow.signature.outputs)
    shadow.signature = Signature(shadow.signature.inputs, outputs, shadow.signature.aligned)
    names = {spec.name for spec in outputs}
    known = [one for one in found.comparisons if {one.output, one.probabilities or one.output} <= names]
    shadow.comparisons = (*known, *shadow.comparisons)


def _meant(spec: TensorSpec, declared: TensorSpec | None) -> TensorSpec:
    if declared is None or declared.datatype != spec.datatype or len(declared.shape) != len(spec.shape):
        return spec
    return replace(spec, meaning=spec.meaning or declared.meaning, classes=spec.classes or declared.classes)
