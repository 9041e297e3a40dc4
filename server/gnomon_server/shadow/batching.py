"""Batches: mirrored requests that share one run of the shadow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import NamedTuple, Protocol

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array
from gnomon_server.shadow import outline
from gnomon_server.shadow.comparators import Flags
from gnomon_server.shadow.compatibility import Fit, Fits, Tensor
from gnomon_server.shadow.digests import Inputs, of_bytes
from gnomon_server.wire.record import Record


class Mirrored(NamedTuple):
    """One mirrored request that can be compared."""

    record: Record
    fit: Fit
    # Raw contents of the inputs, and of the primary's outputs; empty where the contents are typed.
    inputs: Sequence[bytes]
    outputs: Sequence[bytes]
    # In UTF-8; empty without one.
    id: bytes = b""


@dataclass(frozen=True)
class Batch:
    """Requests of one primary version, one share and one layout; of several, each has rows of its own."""

    requests: tuple[Mirrored, ...]

    @property
    def fit(self) -> Fit:
        """How its requests fit, but for the number of rows."""
        return self.requests[0].fit

    @property
    def records(self) -> list[Record]:
        """Its requests as they came."""
        return [request.record for request in self.requests]

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """Rows of each request."""
        return np.array([request.fit.rows for request in self.requests], np.intp)

    @cached_property
    def ends_ns(self) -> NDArray[np.int64]:
        """When the primary answered each request, in nanoseconds since the epoch."""
        return np.array([request.record.end_ns for request in self.requests], np.int64)

    def inputs(self) -> dict[str, Array]:
        """Returns the inputs of all requests, joined; raises TensorError if they are not well formed."""
        layout = self.fit.layout
        if layout.raw_inputs:
            return self._join_raw(layout.inputs, [request.inputs for request in self.requests])
        messages = [pb.ModelInferRequest.FromString(request.record.request) for request in self.requests]
        return self._join_typed(layout.inputs, [message.inputs for message in messages])

    def primary_outputs(self) -> dict[str, Array]:
        """Returns the primary's outputs for all requests, joined; raises TensorError if they are not well formed."""
        layout = self.fit.layout
        if layout.raw_outputs:
            return self._join_raw(layout.outputs, [request.outputs for request in self.requests])
        messages = [pb.ModelInferResponse.FromString(request.record.response) for request in self.requests]
        return self._join_typed(layout.outputs, [message.outputs for message in messages])

    def only(self, keep: Flags) -> Batch:
        """Returns the batch of the requests that are to be kept."""
        return Batch(tuple(compress(self.requests, keep)))

    def singles(self) -> list[Batch]:
        """Returns each request as a batch of its own."""
        return [Batch((request,)) for request in self.requests]

    def _join_raw(self, layout: Iterable[Tensor], contents: Sequence[Sequence[bytes]]) -> dict[str, Array]:
        joined: dict[str, Array] = {}
        for index, tensor in enumerate(layout):
            raw = b"".join([parts[index] for parts in contents])
            array = tensors.from_raw(tensor.datatype, self._joined_shape(tensor), raw)
            joined[tensor.name] = tensors.to_text(array) if tensor.datatype == "BYTES" else array
        return joined

    def _join_typed(self, layout: Iterable[Tensor], messages: Sequence[Sequence[_Typed]]) -> dict[str, Array]:
        joined: dict[str, Array] = {}
        for index, tensor in enumerate(layout):
            parts = [message[index] for message in messages]
            arrays = [tensors.from_contents(tensor.datatype, tuple(part.shape), part.contents) for part in parts]
            array = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
            joined[tensor.name] = tensors.to_text(array) if tensor.datatype == "BYTES" else array
        return joined

    def _joined_shape(self, tensor: Tensor) -> tuple[int, ...]:
        return (int(self.rows.sum()), *tensor.shape[1:]) if self.fit.rowwise else tensor.shape


class _Typed(Protocol):
    """A tensor with typed contents: an input or an output."""

    @property
    def shape(self) -> Iterable[int]:
        """Its dimensions."""

    @property
    def contents(self) -> pb.InferTensorContents:
        """Its elements."""


def parse(record: Record, fits: Fits) -> Mirrored | None:
    """Returns a record as a request that can be compared, or None if it cannot."""
    try:
        request, response = outline.of_request(record.request), outline.of_response(record.response)
        fit = fits.of(request, response)
    except DecodeError:
        return None
    return None if fit.reason else Mirrored(record, fit, request.raw, response.raw, request.id)


def unread(records: Sequence[Record]) -> Inputs:
    """Returns the inputs of records that cannot be read as the shadow's, each of them as one row."""
    digests = [of_bytes(_contents(record)) for record in records]
    return Inputs(np.array(digests, np.uint64), np.ones(len(records), np.intp))


def _contents(record: Record) -> tuple[bytes, ...]:
    try:
        found = outline.of_request(record.request)
    except DecodeError:
        return (record.request,)
    return (*found.tensors, *found.raw)


def group(requests: Iterable[Mirrored], batch_rows: int) -> list[Batch]:
    """Returns the requests in batches of at most `batch_rows` rows, in the order of each batch's first request.

    A request that has more rows, or that may share no run, is a batch of its own. None of a sequence comes before
    another one that came earlier.
    """
    batches: list[list[Mirrored]] = []
    # By group: the number of the batch that is being filled, and its rows.
    filling: dict[object, tuple[int, int]] = {}
    # By sequence: the number of the batch that has its last request.
    last: dict[bytes, int] = {}
    for request in requests:
        fit, sequence = request.fit, request.record.sequence
        key = (request.record.primary, request.record.sample, fit.group)
        number, rows = filling.get(key, (-1, 0))
        if number < last.get(sequence, 0) or fit.group is None or rows + fit.rows > batch_rows:
            number, rows = len(batches), 0
            batches.append([])
        batches[number].append(request)
        filling[key] = (number, rows + fit.rows)
        if sequence:
            last[sequence] = number
    return [Batch(tuple(batch)) for batch in batches]
