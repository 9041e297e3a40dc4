from __future__ import annotations

import numpy as np
import pytest
from server.shadow.fakes import ADDER, added, record_of

from gnomon_protos.tensors import Array
from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow.batching import Batch, Mirrored, group, parse
from gnomon_server.shadow.compatibility import Fits
from gnomon_server.wire.record import Record

FITS = Fits(ADDER, coalescable=True)


def mirrored(record: Record, fits: Fits = FITS) -> Mirrored:
    request = parse(record, fits)
    assert request is not None
    return request


def rows_of(batches: list[Batch]) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches]


def test_requests_share_a_batch_up_to_its_rows() -> None:
    requests = [mirrored(added([[1, 2]] * rows)) for rows in (1, 2, 1, 5, 1)]
    assert rows_of(group(requests, 4)) == [[1, 2, 1], [5], [1]]


def test_requests_to_different_primaries_share_no_batch() -> None:
    requests = [mirrored(added(primary=primary)) for primary in (1, 3, 1, 3)]
    batches = group(requests, 256)
    assert [{request.record.primary for request in batch.requests} for batch in batches] == [{1}, {3}]


def test_raw_and_typed_requests_share_no_batch() -> None:
    requests = [mirrored(added(typed=typed)) for typed in (False, True, False, True)]
    assert rows_of(group(requests, 256)) == [[1, 1], [1, 1]]


def test_requests_without_rows_and_those_of_dependent_rows_run_alone() -> None:
    assert rows_of(group([mirrored(added([])) for _ in range(2)], 256)) == [[0], [0]]
    dependent = Fits(ADDER, coalescable=False)
    assert rows_of(group([mirrored(added(), dependent) for _ in range(2)], 256)) == [[1], [1]]


@pytest.mark.parametrize("typed", [False, True])
def test_a_batch_joins_the_tensors_of_its_requests(typed: bool) -> None:
    (batch,) = group([mirrored(added(rows, typed=typed)) for rows in ([[1, 2]], [[3, 4], [5, 6]])], 256)
    assert batch.inputs()["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert batch.primary_outputs()["sum"].tolist() == [3, 7, 11]


@pytest.mark.parametrize("typed", [False, True])
def test_text_is_joined_as_text(typed: bool) -> None:
    signature = Signature((TensorSpec("s", "BYTES", (-1,)),), (TensorSpec("label", "BYTES", (-1,)),))
    fits = Fits(signature, coalescable=True)

    def one(*texts: str) -> Record:
        array: Array = np.array(texts, object)
        return record_of({"s": array}, {"label": array}, typed=typed)

    (batch,) = group([mirrored(one("é"), fits), mirrored(one("", "日本"), fits)], 256)
    assert batch.inputs()["s"].tolist() == ["é", "", "日本"]
    assert batch.primary_outputs()["label"].tolist() == ["é", "", "日本"]


def test_a_request_without_a_batch_dimension_keeps_its_shape() -> None:
    signature = Signature((TensorSpec("x", "FP32", (2, -1)),), (TensorSpec("y", "FP32", ()),))
    record = record_of({"x": np.ones((2, 3), np.float32)}, {"y": np.array(1, np.float32)})
    (batch,) = group([mirrored(record, Fits(signature, coalescable=False))], 256)
    assert batch.inputs()["x"].shape == (2, 3)
    assert batch.primary_outputs()["y"].shape == ()


def test_bytes_that_are_no_message_cannot_be_compared() -> None:
    good = added()
    broken = Record(**{**{name: getattr(good, name) for name in Record.__struct_fields__}, "response": b"\xff\xff"})
    assert parse(broken, FITS) is None
