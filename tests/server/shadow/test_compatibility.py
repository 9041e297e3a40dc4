from __future__ import annotations

import re

import numpy as np
import pytest
from server.shadow.fakes import request_of, response_of

from gnomon_server.models.signature import Signature, TensorSpec
from gnomon_server.shadow import outline
from gnomon_server.shadow.compatibility import REMEMBERED, Fits, Layout, Tensor, decide

SIGNATURE = Signature(
    (
        TensorSpec("x", "FP32", (-1, 3)),
        TensorSpec("s", "BYTES", (-1, 1)),
        TensorSpec("by", "FP32", (-1,), optional=True),
    ),
    (
        TensorSpec("label", "INT64", (-1,)),
        TensorSpec("p", "FP32", (-1, 2)),
        TensorSpec("extra", "FP32", (-1,)),
    ),
)
X, S = Tensor("x", "FP32", (4, 3)), Tensor("s", "BYTES", (4, 1))
LABEL, P = Tensor("label", "INT64", (4,)), Tensor("p", "FP32", (4, 2))


def layout(inputs: tuple[Tensor, ...] = (X, S), outputs: tuple[Tensor, ...] = (LABEL, P)) -> Layout:
    return Layout(inputs, outputs, True, True)


@pytest.mark.parametrize(
    ("fitting", "reason"),
    [
        (layout(), ""),
        # In any order, and a part of the outputs.
        (layout((S, X), (P,)), ""),
        # Another width of the same kind; another size, which then diverges.
        (layout(outputs=(Tensor("label", "UINT8", (4,)), Tensor("p", "FP64", (4, 2)))), ""),
        (layout(outputs=(Tensor("p", "FP32", (4, 5)),)), ""),
        (layout(outputs=(Tensor("p", "BF16", (4, 2)),)), ""),
        # An input that may be left out.
        (layout((X, S, Tensor("by", "FP32", (1,)))), ""),
        (layout((X, S, Tensor("by", "FP64", (1,)))), r"expects FP32 \[-1\], received FP64 \[1\]"),
        (layout((X,)), "input 's' of the shadow is missing"),
        (layout((X, S, Tensor("z", "FP32", (4, 3)))), "input 'z' is unknown"),
        (layout((X, S, S)), "input 's' is unknown to the shadow, or given twice"),
        (layout((Tensor("x", "FP64", (4, 3)), S)), r"expects FP32 \[-1, 3\], received FP64 \[4, 3\]"),
        (layout((Tensor("x", "FP32", (4, 2)), S)), r"received FP32 \[4, 2\]"),
        (layout((Tensor("x", "FP32", (3,)), S)), r"received FP32 \[3\]"),
        (layout(outputs=(LABEL, Tensor("q", "FP32", (4, 2)))), "output 'q' is unknown"),
        (layout(outputs=(Tensor("label", "FP32", (4,)),)), "output 'label': the shadow gives INT64"),
        (layout(outputs=(Tensor("label", "BOOL", (4,)),)), "output 'label'"),
        (layout(outputs=(Tensor("label", "BYTES", (4,)),)), "output 'label'"),
        (layout(outputs=(Tensor("label", "INT64", (4, 1)),)), "output 'label'"),
        (layout(outputs=()), "no output"),
    ],
)
def test_a_request_is_comparable_if_the_shadow_could_have_answered_it(fitting: Layout, reason: str) -> None:
    found = decide(fitting, SIGNATURE, coalescable=True).reason
    assert re.search(reason, found) if reason else not found


def test_an_output_of_unknown_rank_may_have_any() -> None:
    free = Signature((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (), ranked=False),))
    for shape in ((), (4,), (4, 2, 2)):
        assert not decide(layout((X,), (Tensor("y", "FP32", shape),)), free, coalescable=True).reason


@pytest.mark.parametrize(
    ("fitting", "signature", "coalescable", "rowwise", "rows", "joins"),
    [
        (layout(), SIGNATURE, True, True, 4, True),
        (layout(), SIGNATURE, False, True, 4, False),
        # An optional input need not have the rows of the others.
        (layout((X, S, Tensor("by", "FP32", (4,)))), SIGNATURE, True, True, 4, False),
        # An answer with another first dimension is one row.
        (layout(outputs=(Tensor("label", "INT64", (1,)),)), SIGNATURE, True, False, 1, False),
        (
            Layout((Tensor("x", "FP32", (3,)),), (Tensor("y", "FP32", ()),), True, True),
            Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", ()),)),
            True,
            False,
            1,
            False,
        ),
        # Nothing to join.
        (
            Layout((Tensor("x", "FP32", (0,)),), (Tensor("y", "FP32", (0,)),), True, True),
            Signature((TensorSpec("x", "FP32", (-1,)),), (TensorSpec("y", "FP32", (-1,)),)),
            True,
            True,
            0,
            False,
        ),
    ],
)
def test_rows_are_told_apart_where_every_tensor_has_them(
    fitting: Layout, signature: Signature, coalescable: bool, rowwise: bool, rows: int, joins: bool
) -> None:
    fit = decide(fitting, signature, coalescable)
    assert (fit.reason, fit.rowwise, fit.rows, fit.group is not None) == ("", rowwise, rows, joins)


def fit_of(fits: Fits, rows: int, typed: bool = False, width: int = 2) -> object:
    inputs = {"x": np.zeros((rows, 3), np.float32), "s": np.full((rows, 1), "é", object)}
    outputs = {"p": np.zeros((rows, width), np.float32)}
    request, response = request_of(inputs, typed), response_of(outputs, typed)
    fit = fits.of(outline.of_request(request), outline.of_response(response))
    assert fit.reason == ""
    assert fit.rows == rows
    assert fit.layout.inputs == (Tensor("x", "FP32", (rows, 3)), Tensor("s", "BYTES", (rows, 1)))
    assert (fit.layout.raw_inputs, fit.layout.raw_outputs) == (not typed, not typed)
    return fit.group


def test_requests_group_by_everything_but_their_rows() -> None:
    fits = Fits(SIGNATURE, coalescable=True)
    first = fit_of(fits, 1)
    assert first == fit_of(fits, 5) == fit_of(fits, 1)
    assert fit_of(fits, 1, width=3) != first
    assert fit_of(fits, 1, typed=True) == fit_of(fits, 2, typed=True) != first


FREE = Signature((TensorSpec("x", "UINT8", (-1, -1)),), (TensorSpec("y", "UINT8", (-1, -1)),))


@pytest.mark.parametrize("typed", [False, True])
def test_clients_cannot_make_the_decisions_grow_for_ever(typed: bool) -> None:
    fits, groups = Fits(FREE, coalescable=True), []
    for width in (*range(1, 2 * REMEMBERED), 1):
        tensor = np.zeros((1, width), np.uint8)
        request, response = request_of({"x": tensor}, typed), response_of({"y": tensor}, typed)
        groups.append(fits.of(outline.of_request(request), outline.of_response(response)).group)
    assert len(set(groups)) == len(groups) == 2 * REMEMBERED
    assert max(len(fits._groups), len(fits._decided)) <= REMEMBERED
