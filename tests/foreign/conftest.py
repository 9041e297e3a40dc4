"""One server a transport, shared by every client that nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx_models as models
import pytest
from onnx import TensorProto
from servers import ServerProcess

SLOW_ROUNDS = 100_000


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models: line doubles, slow takes its time where a number is above 1.5, texts echoes strings."""
    folder = tmp_path_factory.mktemp("foreign") / "models"
    models.write(folder, "line", 1, models.affine(2.0))
    models.write(folder, "slow", 1, models.slow(SLOW_ROUNDS, above=1.5))
    models.write(folder, "texts", 1, models.identity(TensorProto.STRING))
    return folder


@pytest.fixture(scope="session", params=["http2", "grpcio"])
def transport(request: pytest.FixtureRequest) -> str:
    """The transport under test."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def server(transport: str, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that takes messages of up to 16 MiB."""
    state = tmp_path_factory.mktemp(f"foreign-{transport}")
    with ServerProcess(repository, state, "--transport", transport, config="max_message_bytes = 16777216") as running:
        yield running
