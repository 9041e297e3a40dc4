"""More and fewer frontends while clients call: nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_models as models
import pytest
from load import Load
from servers import ServerProcess

from gnomon_client import InvalidArgument


@pytest.fixture(params=["http2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    models.write(tmp_path / "models", "m", 1, models.affine(1.0))
    flags = ("--transport", request.param)
    with ServerProcess(tmp_path / "models", tmp_path / "state", *flags, config="grace = 10.0") as running:
        yield running


def test_no_request_is_lost_while_frontends_come_and_go(server: ServerProcess) -> None:
    with server.control() as control, Load(server.grpc, "m", threads=4) as load:
        load.reach(50)
        for workers in (3, 1, 2):
            assert control.scale(workers, timeout=60).workers == workers
            assert len(server.children("gnomon_server.serving")) == workers
            load.reach(50)
    assert load.failures == []
    assert {answer.version for answer in load.answers} == {1}


def test_a_number_of_frontends_that_makes_no_sense_is_refused(server: ServerProcess) -> None:
    with server.control() as control, pytest.raises(InvalidArgument, match="workers: expected 1 to 256, received 0"):
        control.scale(0)
