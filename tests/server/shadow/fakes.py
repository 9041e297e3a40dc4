"""Shadows and records that behave: what the tests of the shadow worker run on."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from gnomon_protos import inference_pb2 as pb
from gnomon_protos import tensors
from gnomon_protos.tensors import Array
from gnomon_server.errors import Internal
from gnomon_server.models.manifest import Comparison
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.wire import record
from gnomon_server.wire.record import Record

# Rows with this in them are what a poisoned Adder raises on.
POISON = 666.0
ADDER = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("sum", "FP32", (-1,)),))


class Adder:
    """A shadow that adds the two columns of each row, and `bias`.

    It waits for `gate` before each run, raises `error` if there is one, and raises on POISON.
    """

    def __init__(
        self,
        gate: threading.Event | None = None,
        error: Exception | None = None,
        bias: float = 0.0,
        coalescable: bool = True,
        signature: Signature = ADDER,
        comparisons: tuple[Comparison, ...] = (),
    ) -> None:
        self.model = "adder"
        self.version = 2
        self.digest = "sha256:adder"
        self.signature = signature
        self.comparisons = comparisons
        self.coalescable = coalescable
        self.trouble = ""
        self.gate = gate
        self.error = error
        self.bias = bias
        self.started = threading.Event()
        # Rows of each run.
        self.runs: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        self.started.set()
        self.runs.append(len(inputs["x"]))
        if self.gate is not None:
            self.gate.wait()
        if self.error is not None:
            raise self.error
        if (inputs["x"] == POISON).any():
            raise Internal("execution failed: poison")
        return [inputs["x"].sum(axis=1) + np.float32(self.bias) for _ in outputs]


def request_of(inputs: Mapping[str, Array], typed: bool = False, id: str = "") -> bytes:  # noqa: A002 - the field's name
    message = pb.ModelInferRequest(model_name="adder", id=id)
    for name, array in inputs.items():
        tensor = message.inputs.add(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
        if typed:
            tensors.to_contents(array, tensor.contents)
        else:
            message.raw_input_contents.append(tensors.to_raw(array))
    return message.SerializeToString()


def response_of(outputs: Mapping[str, Array], typed: bool = False) -> bytes:
    message = pb.ModelInferResponse(model_name="adder", model_version="1")
    for name, array in outputs.items():
        tensor = message.outputs.add(name=name, datatype=tensors.datatype_of(array), shape=array.shape)
        if typed:
            tensors.to_contents(array, tensor.contents)
        else:
            message.raw_output_contents.append(tensors.to_raw(array))
    return message.SerializeToString()


def record_of(
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    primary: int = 1,
    age: float = 0.0,
    sampled: bool = False,
    typed: bool = False,
) -> Record:
    """Returns a record whose call ended `age` seconds ago."""
    end_ns = time.time_ns() - int(age * 1e9)
    return Record(
        primary=primary,
        sampled=sampled,
        start_ns=end_ns - 3_000_000,
        end_ns=end_ns,
        run_start_ns=end_ns - 2_000_000,
        run_end_ns=end_ns - 1_000_000,
        trace_id=bytes(range(16)),
        span_id=7,
        parent_id=0,
        peer=b"ipv4:127.0.0.1:1",
        trace_state=b"",
        request=request_of(inputs, typed),
        response=response_of(outputs, typed),
    )


def added(
    rows: Sequence[Sequence[float]] = ((1, 2),), wrong: float = 0.0, age: float = 0.0, **options: bool | int
) -> Record:
    """Returns a record of the Adder's primary, whose answers are off by `wrong`."""
    x = np.array(rows, np.float32).reshape(-1, 2)
    answer = x.sum(axis=1, dtype=np.float32) + np.float32(wrong)
    return record_of({"x": x}, {"sum": answer}, age=age, **options)  # type: ignore[arg-type]


def on_the_wire(received: Record) -> bytes:
    return b"".join(record.encode(received))
