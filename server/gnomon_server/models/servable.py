"""A servable: one version loaded, verified and warm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from gnomon_protos.tensors import FIXED, Array, is_bfloat16, widened
from gnomon_server.errors import Internal, LoadError
from gnomon_server.models import manifest, overrides
from gnomon_server.models.manifest import Comparison, Manifest
from gnomon_server.models.session import Session
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.settings import MODEL_DEFAULTS, ModelSettings
from gnomon_server.wire.plans import VersionRef

# Difference between two runs of one model that float arithmetic explains: another machine, another batch size.
RTOL: Final = 1e-3
ATOL: Final = 1e-5
# Batch and free dimensions of inputs made up to probe a version that brings no sample.
PROBE_ROWS: Final = 3
PROBE_FREE: Final = 2


class Servable:
    """A loaded version; immutable, and safe to run from several threads at once.

    It lives as long as something refers to it, so that dropping it from a route unloads it once its last run ends.
    """

    # What keeps a loaded version from running: nothing can.
    trouble: Final = ""

    def __init__(
        self,
        ref: VersionRef,
        session: Session,
        signature: Signature,
        comparisons: tuple[Comparison, ...],
        digest: str,
        coalescable: bool,
        settings: ModelSettings = MODEL_DEFAULTS,
    ) -> None:
        self.model = ref.model
        self.version = ref.version
        self.signature = signature
        self.comparisons = comparisons
        self.digest = digest
        # Whether its rows are independent, so that requests may be joined into one run.
        self.coalescable = coalescable
        self.settings = settings
        self._session = session

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the named outputs for inputs that fit the signature; blocks, with the GIL released.

        Text travels as object arrays of str. Raises Internal if the model fails on this input.
        """
        return self._session.run(inputs, outputs)


def load(ref: VersionRef, settings: ModelSettings = MODEL_DEFAULTS) -> Servable:
    """Loads a version and proves it: digest, signature, golden sample.

    Raises LoadError with the reason in one line.
    """
    folder = Path(ref.folder)
    declared = manifest.read(folder)
    path = folder / declared.model_file
    digest = _digest(path)
    if declared.digest and declared.digest != digest:
        raise LoadError(f"{path.name}: expected digest {declared.digest} as in the manifest, received {digest}")
    if ref.digest and ref.digest != digest:
        known = f"first served with digest {ref.digest}, received {digest}"
        raise LoadError(f"{path.name}: {known}: versions never change, publish a new one")
    session = Session(path, settings.session)
    signature = _signature(session, declared)
    _check_golden(session, signature, declared)
    coalescable = signature.batched and _rows_independent(session, signature, declared)
    if len(signature.required) > 1 and None in session.first_dimensions and not coalescable:
        # Nothing says that the sizes of these inputs are one, and a product of two matrices would be refused.
        signature = replace(signature, aligned=False)
    if session.classes:
        signature = replace(signature, outputs=tuple(_with_classes(spec, session) for spec in signature.outputs))
    comparisons = (*declared.comparisons, *overrides.comparisons(settings.outputs))
    return Servable(ref, session, signature, comparisons, digest, coalescable, settings)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from None


def _signature(session: Session, declared: Manifest) -> Signature:
    """Reads the signature from the model, with meanings and classes from the manifest."""
    aligned = len(session.first_dimensions - {None}) <= 1
    if declared.signature is None:
        return Signature(session.inputs, session.outputs, aligned)
    return Signature(
        _with_meanings(session.inputs, declared.signature.inputs, "input"),
        _with_meanings(session.outputs, declared.signature.outputs, "output"),
        aligned,
    )


def _with_meanings(
    actual: tuple[TensorSpec, ...], declared: tuple[TensorSpec, ...], kind: str
) -> tuple[TensorSpec, ...]:
    named = {spec.name: spec for spec in declared}
    meanings = dict(named)
    for spec in actual:
        other = named.pop(spec.name, None)
        if other is None and spec.optional:
            meanings[spec.name] = spec
            continue
        other_rank = other is not None and spec.ranked and len(other.shape) != len(spec.shape)
        if other is None or other.datatype != spec.datatype or other_rank:
            shown = f"{other.datatype} {list(other.shape)}" if other else "nothing"
            reason = f"{kind} {spec.name!r}: the model has {spec.datatype} {list(spec.shape)}, the manifest {shown}"
            raise LoadError(reason)
    if named:
        raise LoadError(f"{kind} {next(iter(named))!r} of the manifest is not in the model")
    return tuple(
        replace(spec, meaning=meanings[spec.name].meaning, classes=meanings[spec.name].classes) for spec in actual
    )


def _with_classes(spec: TensorSpec, session: Session) -> TensorSpec:
    """Returns an output with the classes that its first run has shown, if it is a map and has run."""
    classes = session.classes.get(spec.name)
    return replace(spec, shape=(-1, len(classes)), classes=spec.classes or classes) if classes else spec


def _check_golden(session: Session, signature: Signature, declared: Manifest) -> None:
    """Runs the golden sample, which also warms the session up; raises LoadError where an output is off."""
    if not declared.golden_inputs:
        return
    names = [name for name in signature.output_names if name in declared.golden_outputs]
    try:
        outputs = session.run(declared.golden_inputs, names)
    except Internal as error:
        raise LoadError(f"golden sample: {error}") from None
    for name, output in zip(names, outputs, strict=True):
        if not _close(declared.golden_outputs[name], output):
            raise LoadError(f"golden sample: output {name!r} differs from what the manifest recorded at conversion")


def _rows_independent(session: Session, signature: Signature, declared: Manifest) -> bool:
    """Whether a batch gives what its rows give alone, tried on the golden sample or on made-up inputs."""
    inputs = declared.golden_inputs or _made_up(signature)
    rows = min((len(array) for array in inputs.values()), default=0)
    names = signature.output_names
    try:
        together = session.run(inputs, names)
        singles = [session.run({name: a[i : i + 1] for name, a in inputs.items()}, names) for i in range(rows)]
    except Internal:
        return False
    return rows > 1 and all(_joined([single[k] for single in singles], together[k]) for k in range(len(names)))


def _joined(singles: Sequence[Array], together: Array) -> bool:
    """Whether arrays of one row each, put together, are the array of all rows."""
    if any(single.shape != (1, *together.shape[1:]) for single in singles):
        return False
    return _close(np.concatenate(singles), together)


def _made_up(signature: Signature) -> dict[str, Array]:
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for spec in signature.required:
        shape = (PROBE_ROWS, *(PROBE_FREE if dim == -1 else dim for dim in spec.shape[1:]))
        if spec.datatype == "BYTES":
            inputs[spec.name] = np.full(shape, "", object)
        else:
            dtype = FIXED[spec.datatype]
            # Whole numbers: an index stays in range, a count stays small.
            whole = dtype.kind != "f" and not is_bfloat16(dtype)
            inputs[spec.name] = np.zeros(shape, dtype) if whole else random.random(shape).astype(dtype)
    return inputs


def _close(expected: Array, received: Array) -> bool:
    if expected.shape != received.shape:
        return False
    expected, received = widened(expected), widened(received)
    if expected.dtype.kind == "f":
        return bool(np.allclose(received, expected, rtol=RTOL, atol=ATOL, equal_nan=True))
    return bool(np.array_equal(expected, received))
