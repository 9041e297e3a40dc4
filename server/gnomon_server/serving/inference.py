"""One inference: a request that was accepted, and the run that it went through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gnomon_protos import inference_pb2 as pb
from gnomon_protos.tensors import Array
from gnomon_server.errors import GnomonError
from gnomon_server.models.servable import Servable
from gnomon_server.serving.split import Split
from gnomon_server.serving.transport import Call


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything about a checked request but its id and numbers; one object for all requests that are alike."""

    # What answers, and its role for the model.
    servable: Servable
    role: str
    # Of each input, in request order.
    names: tuple[str, ...]
    dtypes: tuple[np.dtype[np.generic], ...]
    shapes: tuple[tuple[int, ...], ...]
    outputs: tuple[str, ...]
    # Of the first dimension; 1 where that is no batch.
    rows: int
    # Requests of equal kind may be joined: they differ in rows and numbers only.
    kind: object
    # 1 goes first; 0 for none, which goes last.
    priority: int = 0
    # What decides anew for each request whether the canary answers it; None: nothing to decide.
    split: Split | None = None


class Run(NamedTuple):
    """One run of a version; made for every pass, and a frozen dataclass takes three times as long to make."""

    # Rows and requests in it.
    rows: int
    requests: int
    # Nanoseconds since the epoch.
    start_ns: int
    end_ns: int
    # time.perf_counter() when its batch was taken up, and the seconds in which its inputs were joined.
    begun: float
    joining: float


@dataclass(slots=True, eq=False)
class Inference:
    """What is needed to run, answer, count and mirror a request."""

    call: Call
    # UTF-8.
    id: bytes
    layout: Layout
    # The raw contents of each input, or the inputs themselves.
    raw: Sequence[bytes]
    arrays: Mapping[str, Array] | None
    # Seconds since the call's start within which it must run, or None.
    limit: float | None
    # Set where the answer depends on more of the request than its id.
    request: pb.ModelInferRequest | None = None
    run: Run | None = None
    # Seconds in which it was read: without the time of those that came with it and were read before.
    reading: float = 0.0

    @property
    def primary(self) -> bool:
        """Whether the primary answers, so that the request may be mirrored."""
        return self.layout.role == "primary"


class Answered(NamedTuple):
    """Requests that were answered together, and are not counted or mirrored yet."""

    batch: Sequence[Inference]
    run: Run | None
    error: GnomonError | None
    # None if there is an error.
    responses: Sequence[bytes] | None
    # time.perf_counter() when the writing of their answers began and ended, and nanoseconds since the epoch at its end.
    begun: float
    ended: float
    end_ns: int


def joined(batch: Sequence[Inference]) -> Mapping[str, Array]:
    """Returns the inputs of requests of one kind, each joined along its first dimension; views where they are bytes."""
    first = batch[0]
    if first.arrays is not None:
        if len(batch) == 1:
            return first.arrays
        sides = [inference.arrays or {} for inference in batch]
        return {name: np.concatenate([arrays[name] for arrays in sides]) for name in first.arrays}
    layout, inputs = first.layout, {}
    if len(batch) == 1:
        for name, dtype, shape, raw in zip(layout.names, layout.dtypes, layout.shapes, first.raw, strict=True):
            inputs[name] = np.ndarray(shape, dtype, raw)
        return inputs
    rows = sum([inference.layout.rows for inference in batch])
    for index, (name, dtype, shape) in enumerate(zip(layout.names, layout.dtypes, layout.shapes, strict=True)):
        data = b"".join([inference.raw[index] for inference in batch])
        inputs[name] = np.ndarray((rows, *shape[1:]), dtype, data)
    return inputs


def divisible(batch: Sequence[Inference], outputs: Sequence[Array]) -> bool:
    """Whether every output has as many rows as the batch, so that each request has its own.

    A model may drop or repeat rows on some inputs only, which no probe at its loading can rule out.
    """
    if len(batch) == 1:
        return True
    rows = sum([inference.layout.rows for inference in batch])
    return all(output.shape[:1] == (rows,) for output in outputs)


def split(batch: Sequence[Inference], outputs: Sequence[Array]) -> list[Sequence[Array]]:
    """Returns each request's part of a batch's outputs."""
    if len(batch) == 1:
        return [outputs]
    parts: list[Sequence[Array]] = []
    begin = 0
    for inference in batch:
        end = begin + inference.layout.rows
        parts.append([output[begin:end] for output in outputs])
        begin = end
    return parts
