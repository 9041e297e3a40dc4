"""A servable: one version loaded, verified and warm; the only module that imports onnxruntime."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from gnomon_protos.tensors import FIXED, Array
from gnomon_server.config import MODEL_DEFAULTS, ModelSettings, SessionSettings
from gnomon_server.errors import Internal, LoadError
from gnomon_server.models import manifest, overrides
from gnomon_server.models.manifest import Comparison, Manifest
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.wire.messages import VersionRef

# onnxruntime reports home from 1.29 on unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

log = logging.getLogger(__name__)

# onnxruntime's element types, and the protocol's names for them.
DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : ", which tells a reader nothing that the text after it does not.
ORT_PREFIX: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
# By what the settings call it.
OPTIMIZATION: Final = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
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

    def __init__(
        self,
        ref: VersionRef,
        session: Any,
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
        return _run(self._session, inputs, outputs)


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
    session = _session(path, settings.session)
    signature = _signature(session, declared)
    _check_golden(session, signature, declared)
    coalescable = signature.batched and _rows_independent(session, signature, declared)
    comparisons = (*declared.comparisons, *overrides.comparisons(settings.outputs))
    return Servable(ref, session, signature, comparisons, digest, coalescable, settings)


def _run(session: Any, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
    try:
        # The Python wrapper around it checks what the signature has settled already.
        result: list[Array] = session._sess.run(outputs, inputs, None)
    except Exception as error:
        log.warning("run failed: %s", error)
        raise Internal(f"execution failed: {_first_line(error)}") from error
    return result


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from None


def _session(path: Path, settings: SessionSettings) -> Any:
    offered = onnxruntime.get_available_providers()
    for provider in settings.providers:
        if provider not in offered:
            raise LoadError(f"provider '{provider}': expected one of {offered} as in this build of onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = settings.arena
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, OPTIMIZATION[settings.optimization])
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
    options.log_severity_level = 4
    providers = [(name, settings.provider_options.get(name, {})) for name in settings.providers]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - any failure of the library means that this file cannot be served
        raise LoadError(f"{path.name} does not load: {_first_line(error).replace(str(path), path.name)}") from None
    used = session.get_providers()
    # A provider whose own libraries are missing is left out without an error.
    missing = [provider for provider in settings.providers if provider not in used]
    if missing:
        raise LoadError(f"provider '{missing[0]}' does not start: are its libraries and its device here?")
    return session


def _signature(session: Any, declared: Manifest) -> Signature:
    """Reads the signature from the model, with meanings and classes from the manifest."""
    actual = Signature(
        tuple(_spec(value) for value in session.get_inputs()),
        tuple(_spec(value) for value in session.get_outputs()),
    )
    if declared.signature is None:
        return actual
    return Signature(
        _with_meanings(actual.inputs, declared.signature.inputs, "input"),
        _with_meanings(actual.outputs, declared.signature.outputs, "output"),
    )


def _spec(value: Any) -> TensorSpec:
    datatype = DATATYPES.get(value.type)
    if datatype is None:
        raise LoadError(f"tensor {value.name!r}: expected one of {', '.join(DATATYPES)}, received {value.type}")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in value.shape)
    return TensorSpec(value.name, datatype, shape)


def _with_meanings(
    actual: tuple[TensorSpec, ...], declared: tuple[TensorSpec, ...], kind: str
) -> tuple[TensorSpec, ...]:
    named = {spec.name: spec for spec in declared}
    for spec in actual:
        other = named.pop(spec.name, None)
        if other is None or (other.datatype, len(other.shape)) != (spec.datatype, len(spec.shape)):
            shown = f"{other.datatype} {list(other.shape)}" if other else "nothing"
            reason = f"{kind} {spec.name!r}: the model has {spec.datatype} {list(spec.shape)}, the manifest {shown}"
            raise LoadError(reason)
    if named:
        raise LoadError(f"{kind} {next(iter(named))!r} of the manifest is not in the model")
    meanings = {spec.name: spec for spec in declared}
    return tuple(
        replace(spec, meaning=meanings[spec.name].meaning, classes=meanings[spec.name].classes) for spec in actual
    )


def _check_golden(session: Any, signature: Signature, declared: Manifest) -> None:
    """Runs the golden sample, which also warms the session up; raises LoadError where an output is off."""
    if not declared.golden_inputs:
        return
    names = [name for name in signature.output_names if name in declared.golden_outputs]
    try:
        outputs = _run(session, declared.golden_inputs, names)
    except Internal as error:
        raise LoadError(f"golden sample: {error}") from None
    for name, output in zip(names, outputs, strict=True):
        if not _close(declared.golden_outputs[name], output):
            raise LoadError(f"golden sample: output {name!r} differs from what the manifest recorded at conversion")


def _rows_independent(session: Any, signature: Signature, declared: Manifest) -> bool:
    """Whether a batch gives what its rows give alone, tried on the golden sample or on made-up inputs."""
    inputs = declared.golden_inputs or _made_up(signature)
    rows = min((len(array) for array in inputs.values()), default=0)
    names = signature.output_names
    try:
        together = _run(session, inputs, names)
        singles = [_run(session, {name: a[i : i + 1] for name, a in inputs.items()}, names) for i in range(rows)]
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
    for spec in signature.inputs:
        shape = (PROBE_ROWS, *(PROBE_FREE if dim == -1 else dim for dim in spec.shape[1:]))
        if spec.datatype == "BYTES":
            inputs[spec.name] = np.full(shape, "", object)
        else:
            dtype = FIXED[spec.datatype]
            # Whole numbers: an index stays in range, a count stays small.
            inputs[spec.name] = random.random(shape).astype(dtype) if dtype.kind == "f" else np.zeros(shape, dtype)
    return inputs


def _close(expected: Array, received: Array) -> bool:
    if expected.shape != received.shape:
        return False
    if expected.dtype.kind == "f":
        return bool(np.allclose(received, expected, rtol=RTOL, atol=ATOL, equal_nan=True))
    return bool(np.array_equal(expected, received))


def _first_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return ORT_PREFIX.sub("", line)[:300]
