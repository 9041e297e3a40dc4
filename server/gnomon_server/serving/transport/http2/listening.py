"""Sockets to listen on."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from gnomon_server.errors import InvalidRequest

BACKLOG: Final = 1024
UNIX: Final = "unix:"


def listen(address: str) -> socket.socket:
    """Returns a listening socket for "host:port", "[::1]:port" or "unix:path"; raises InvalidRequest if it cannot."""
    try:
        if address.startswith(UNIX):
            return _listen_unix(Path(address.removeprefix(UNIX)))
        host, _, port = address.rpartition(":")
        name = host.removeprefix("[").removesuffix("]")
        family, kind, protocol, _, resolved = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0]
        with ExitStack() as undone:
            listener = undone.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # [::] takes IPv4 too, whatever the host's default is.
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(resolved)
            return _listening(listener, undone)
    except (OSError, ValueError):
        raise InvalidRequest(f"cannot listen on {address}: in use, or not an address of this host") from None


def prepare(link: socket.socket) -> None:
    """Makes an accepted socket ready for many small messages, and notice that its peer has vanished in the end."""
    link.setblocking(False)
    if link.family != socket.AF_UNIX:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def peer_of(link: socket.socket) -> str:
    """Returns the peer's address as gRPC prints it."""
    try:
        address = link.getpeername()
    except OSError:
        return "unknown"
    if link.family == socket.AF_INET:
        return f"ipv4:{address[0]}:{address[1]}"
    if link.family == socket.AF_INET6:
        mapped = address[0].removeprefix("::ffff:")
        if "." in mapped:
            return f"ipv4:{mapped}:{address[1]}"
        return f"ipv6:{quote(f'[{address[0]}]', safe=':')}:{address[1]}"
    return UNIX


def _listen_unix(path: Path) -> socket.socket:
    # A socket file that a killed server left behind is in the way of the next one.
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    with ExitStack() as undone:
        listener = undone.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(os.fspath(path))
        return _listening(listener, undone)


def _listening(listener: socket.socket, undone: ExitStack) -> socket.socket:
    listener.listen(BACKLOG)
    listener.setblocking(False)
    undone.pop_all()
    return listener
