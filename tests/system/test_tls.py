"""A server that speaks TLS, asked by real clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_models
import pytest
from servers import ServerProcess

from gnomon_client import Client, Retries, Tls, Unavailable

CERTIFICATES = Path(__file__).parent.parent / "client" / "certificates"
ONES = np.ones((1, 3), np.float32)


@pytest.fixture(scope="module", params=["http2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("tls")
    onnx_models.write(folder / "models", "echo", 1, onnx_models.identity())
    files = {"certificate": "server.pem", "key": "server.key", "client_ca": "authority.pem"}
    lines = [f'{name} = "{CERTIFICATES / file}"' for name, file in files.items()]
    config = "\n".join(["[tls]", *lines])
    with ServerProcess(folder / "models", folder / "state", "--transport", request.param, config=config) as running:
        yield running


def test_files_that_hold_no_certificate_stop_the_server_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    onnx_models.write(tmp_path / "models", "echo", 1, onnx_models.identity())
    config = f'[tls]\ncertificate = "{tmp_path / "no.pem"}"\nkey = "{tmp_path / "no.pem"}"'
    server = ServerProcess(tmp_path / "models", tmp_path / "state", config=config)
    with pytest.raises(AssertionError):
        server.start()
    assert server.process is not None
    assert server.process.wait(30) == 2
    (line,) = server.log
    assert line.startswith("gnomon: tls: expected a certificate, its key and authorities in ")


def test_a_client_with_a_certificate_is_answered(server: ServerProcess) -> None:
    tls = Tls(CERTIFICATES / "authority.pem", CERTIFICATES / "client.key", CERTIFICATES / "client.pem")
    with Client(server.grpc.replace("127.0.0.1", "localhost"), tls=tls) as client:
        assert client.infer("echo", ONES)["y"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("tls", [None, Tls(CERTIFICATES / "authority.pem")], ids=["plain text", "no certificate"])
def test_a_client_without_a_certificate_is_not_let_in(server: ServerProcess, tls: Tls | None) -> None:
    address = server.grpc.replace("127.0.0.1", "localhost")
    with Client(address, tls=tls, retries=Retries(count=0)) as client, pytest.raises(Unavailable):
        client.infer("echo", ONES)
