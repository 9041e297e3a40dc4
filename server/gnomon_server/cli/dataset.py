"""A data set: rows of a file as the requests that clients would have sent, answered by a version."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gnomon_client.errors import InputError
from gnomon_client.inputs import arrays_of
from gnomon_client.metadata import ModelMetadata, TensorMetadata
from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array
from gnomon_server.errors import GnomonError, InvalidRequest
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.wire.record import Record

if TYPE_CHECKING:
    from gnomon_server.shadow.trial import Shadow


@dataclass(frozen=True)
class Dataset:
    """Inputs by name, each with a row for every request; and what is true of each row, if that is known."""

    inputs: Mapping[str, Array]
    truth: Array | None

    def __len__(self) -> int:
        return min(map(len, self.inputs.values()), default=0)

    def chunks(self, rows: int) -> Iterator[Dataset]:
        """Yields parts of at most this many rows, in order."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            inputs = {name: array[part] for name, array in self.inputs.items()}
            yield Dataset(inputs, self.truth[part] if self.truth is not None else None)

    def singles(self) -> Iterator[Dataset]:
        """Yields each row as a data set of its own."""
        return self.chunks(1)


def read(file: Path, labels: str | None, model: str, signature: Signature) -> Dataset:
    """Returns the rows of a .csv, .parquet, .npy or .npz file as inputs of a model, and its column `labels` as truth.

    Raises InvalidRequest for a file that cannot be read or does not fit.
    """
    rows, truth = _rows(file, labels)
    specs = tuple(TensorMetadata(spec.name, spec.datatype, spec.shape) for spec in signature.required)
    try:
        found = {spec.name: array for spec, array in arrays_of(rows, ModelMetadata(model, (), "", specs, ()))}
        inputs = {spec.name: _checked(found[spec.name], spec, signature.batched) for spec in signature.required}
    except InputError as error:
        raise InvalidRequest(f"{file}: {error.details}") from None
    except tensors.TensorError as error:
        raise InvalidRequest(f"{file}: {error}") from None
    sizes = {len(array) for array in (*inputs.values(), *(() if truth is None else (truth,)))}
    if sizes == {0} or len(sizes) != 1:
        raise InvalidRequest(f"{file}: expected rows, the same number of each input, received {sorted(sizes)}")
    return Dataset(inputs, truth)


def _rows(file: Path, labels: str | None) -> tuple[Any, Array | None]:
    from gnomon_converters import ConversionError, source

    if file.suffix == ".npz":
        return _npz(file, labels)
    try:
        rows, truth = source.read_sample(str(file), labels)
    except ConversionError as error:
        raise InvalidRequest(str(error)) from None
    return rows, truth


def _npz(file: Path, labels: str | None) -> tuple[dict[str, Array], Array | None]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InvalidRequest(f"{file} cannot be read: {reason}") from None
    if labels is not None and labels not in arrays:
        raise InvalidRequest(f"labels: expected an array of {file} ({', '.join(arrays)}), received {labels!r}")
    return arrays, arrays.pop(labels) if labels is not None else None


def _checked(array: Array, spec: TensorSpec, batched: bool) -> Array:
    """Returns an input as it would have arrived; raises InputError for rows of a shape that the model does not take."""
    shape = (1, *array.shape[1:]) if batched else array.shape[1:]
    if array.ndim == 0 or not spec.accepts(shape):
        raise InputError(f"input '{spec.name}': expected {list(spec.shape)}, received {list(array.shape)}")
    if spec.datatype != "BYTES":
        return array
    return tensors.to_text(tensors.from_raw(spec.datatype, array.shape, tensors.to_raw(array)))


def run(version: Shadow, data: Dataset) -> tuple[dict[str, Array], Array]:
    """Returns the outputs of a version, a row for every row that it answers, and which rows those are, bool[B].

    No row comes back where none is answered.
    """
    together = version.coalescable or (version.signature.batched and len(data) == 1)
    if together or len(data) == 1:
        try:
            return _run(version, data, together), np.ones(len(data), np.bool_)
        except GnomonError:
            if len(data) == 1:
                return {}, np.zeros(1, np.bool_)
    # One by one: rows that depend on each other, or one among them that cannot be run.
    parts = [run(version, single) for single in data.singles()]
    answered = np.concatenate([found for _, found in parts])
    whole = [outputs for outputs, found in parts if found.all()]
    return {name: np.concatenate([one[name] for one in whole]) for name in (whole[0] if whole else ())}, answered


def _run(version: Shadow, data: Dataset, together: bool) -> dict[str, Array]:
    names = version.signature.output_names
    inputs = data.inputs if together else {name: array[0] for name, array in data.inputs.items()}
    outputs = version.run(inputs, names)
    return dict(zip(names, outputs if together else [array[np.newaxis] for array in outputs], strict=True))


def answered(version: Shadow, data: Dataset) -> tuple[list[Record], int]:
    """Returns each row as a request that a version answered, and how many rows it failed on."""
    start = time.time_ns()
    outputs, found = run(version, data)
    took = (time.time_ns() - start) // len(data)
    rows = [row for row, is_there in zip(data.singles(), found, strict=True) if is_there]
    records = [_record(version, row, {n: a[i : i + 1] for n, a in outputs.items()}, took) for i, row in enumerate(rows)]
    return records, len(data) - len(rows)


def _record(version: Shadow, data: Dataset, outputs: Mapping[str, Array], took_ns: int) -> Record:
    signature, end = version.signature, time.time_ns()
    request = pb.ModelInferRequest(model_name=version.model)
    response = pb.ModelInferResponse(model_name=version.model, model_version=str(version.version))
    specs = {spec.name: spec for spec in (*signature.inputs, *signature.outputs)}
    for tensor_list, raw, arrays in (
        (request.inputs, request.raw_input_contents, data.inputs),
        (response.outputs, response.raw_output_contents, outputs),
    ):
        for name, array in arrays.items():
            value = array if signature.batched else array[0]
            tensor_list.add(name=name, datatype=specs[name].datatype, shape=value.shape)
            raw.append(tensors.to_raw(value))
    return Record(
        primary=version.version,
        sampled=False,
        start_ns=end - took_ns,
        end_ns=end,
        run_start_ns=end - took_ns,
        run_end_ns=end,
        trace_id=bytes(16),
        span_id=0,
        parent_id=0,
        peer=b"",
        trace_state=b"",
        request=request.SerializeToString(),
        response=response.SerializeToString(),
    )
