from __future__ import annotations

import socket

import pytest

from gnomon_server.control.ports import SharedPort, split
from gnomon_server.errors import InvalidRequest


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("a.b.example:80", ("a.b.example", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, expected: tuple[str, int]) -> None:
    assert split(address) == expected


@pytest.mark.parametrize("address", ["", "8001", ":8001", "host", "host:", "host:x", "host:-1", "host:65536", "host:²"])
def test_anything_else_is_refused_with_what_was_received(address: str) -> None:
    with pytest.raises(InvalidRequest, match="address: expected HOST:PORT, received '"):
        split(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_free_port_is_found_and_shared_with_those_who_ask_to(host: str) -> None:
    port = SharedPort(f"{host}:0")
    try:
        name, number = split(port.address)
        assert number > 0
        assert port.address.startswith(f"{host}:")
        family = socket.AF_INET6 if ":" in name else socket.AF_INET
        with socket.socket(family) as first, socket.socket(family) as second:
            for one in (first, second):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                one.bind((name, number))
                one.listen()
    finally:
        port.close()


def test_a_port_that_someone_listens_on_is_refused_even_if_he_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InvalidRequest, match=f"cannot listen on {address}: "):
            SharedPort(address)


def test_a_port_with_the_remains_of_an_ended_servers_connections_can_be_claimed_at_once() -> None:
    claim = SharedPort("127.0.0.1:0")
    with socket.socket() as listener:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind(split(claim.address))
        listener.listen()
        with socket.create_connection(split(claim.address)) as caller:
            accepted, _ = listener.accept()
            # The server closes first, and its end of the connection lingers in TIME_WAIT.
            accepted.close()
            assert caller.recv(1) == b""
    claim.close()
    SharedPort(claim.address).close()


def test_a_port_is_refused_to_a_second_server_until_the_first_gives_it_back() -> None:
    first = SharedPort("127.0.0.1:0")
    with pytest.raises(InvalidRequest, match="cannot listen on"):
        SharedPort(first.address)
    first.close()
    SharedPort(first.address).close()


@pytest.mark.parametrize("host", ["nobody.invalid", "300.1.1.1"])
def test_a_host_that_does_not_exist_is_refused(host: str) -> None:
    with pytest.raises(InvalidRequest, match=f"address '{host}:80': "):
        SharedPort(f"{host}:80")
