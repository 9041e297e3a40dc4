"""What clients of Triton get from gnomon: the recorded answers of a real one, but for the differences on the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import onnx_models as models
import pytest
from conformance.triton_cases import CASES, DIFFERENCES
from conformance.triton_recording import Answer, answered, recorded
from onnx import TensorProto
from raw_calls import channel
from servers import ServerProcess

TRITON = recorded()
PAGE = Path(__file__).parents[2] / "docs" / "triton.md"


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to a server with the models of the cases."""
    folder = tmp_path_factory.mktemp("as-triton") / "models"
    models.write(folder, "line", 1, models.affine(2.0))
    models.write(folder, "sum", 1, models.added())
    # So far to one side that softmax gives exactly 0 and 1, in whichever arithmetic.
    models.write(folder, "scores", 1, models.classifier(200.0))
    for name, element in (
        ("texts", TensorProto.STRING),
        ("truths", TensorProto.BOOL),
        ("small", TensorProto.INT8),
        ("halves", TensorProto.FLOAT16),
    ):
        models.write(folder, name, 1, models.identity(element))
    with (
        ServerProcess(folder, tmp_path_factory.mktemp("as-triton-state")) as server,
        channel(server.grpc) as opened,
    ):
        yield opened


def without_text(answer: Answer) -> Answer:
    """Returns all of an answer that has to be the same."""
    return {name: value for name, value in answer.items() if name != "text"}


def test_every_case_is_on_file() -> None:
    assert TRITON.keys() == CASES.keys()


@pytest.mark.parametrize("name", sorted(CASES.keys() - DIFFERENCES.keys()))
def test_a_client_of_triton_gets_the_same(name: str, wire: grpc.Channel) -> None:
    here, there = answered(wire, CASES[name]), TRITON[name]
    assert without_text(here) == without_text(there)


def test_the_page_tells_every_difference(wire: grpc.Channel) -> None:
    rows = ["| case | Triton | gnomon | why |", "|---|---|---|---|"]
    for name, reason in DIFFERENCES.items():
        here, there = answered(wire, CASES[name]), TRITON[name]
        assert without_text(here) != without_text(there), f"{name}: none any more"
        rows.append(f"| {name} | {there['status']} | {here['status']} | {reason} |")
    table = "\n".join(line for line in PAGE.read_text().splitlines() if line.startswith("|"))
    assert table == "\n".join(rows)
