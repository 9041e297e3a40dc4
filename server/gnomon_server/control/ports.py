"""The gRPC port that frontends share: claimed once, so that no other server slips in beside them."""

from __future__ import annotations

import socket

from gnomon_server.errors import InvalidRequest


class SharedPort:
    """A claim on a TCP address; keeps the number reserved between the lives of the frontends."""

    def __init__(self, address: str) -> None:
        """Claims HOST:PORT, port 0 for a free one; raises InvalidRequest if it is taken or is no address."""
        # Without sharing first: with it, the kernel would let two servers of one user split the callers.
        number = free(address)
        host, port = split(address)
        family, resolved = _resolve(host, port, address)
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        # Only what shares the port may join, and never SO_REUSEADDR here: beside a socket that has it and does not
        # listen yet, the kernel would give the port to another server's `free`.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._socket.bind((resolved, number))
        except OSError as error:
            self._socket.close()
            raise InvalidRequest(f"cannot listen on {address}: {error.strerror}") from None
        self.address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"

    def close(self) -> None:
        """Gives the number back."""
        self._socket.close()


def free(address: str) -> int:
    """Returns the port of HOST:PORT, or a free one for 0; raises InvalidRequest if it is taken or no address."""
    host, port = split(address)
    family, resolved = _resolve(host, port, address)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((resolved, port))
            probe.listen(1)
            number: int = probe.getsockname()[1]
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {address}: {error.strerror}") from None
    return number


def split(address: str) -> tuple[str, int]:
    """Returns host and port of HOST:PORT or [HOST]:PORT; raises InvalidRequest for anything else."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidRequest(f"address: expected HOST:PORT, received '{address}'")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _resolve(host: str, port: int, address: str) -> tuple[socket.AddressFamily, str]:
    try:
        family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InvalidRequest(f"address '{address}': {error.strerror}") from None
    return family, str(resolved[0])
