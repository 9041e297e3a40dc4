"""The state folder: held by one process at a time."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import Final

from gnomon_server.control.audit import files
from gnomon_server.errors import NotReady, Refused

LOCK: Final = "gnomon.sqlite.lock"
REPLICA: Final = "replica"


def hold(folder: Path) -> int:
    """Returns a file descriptor that locks the folder's state until it is closed."""
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NotReady(f"{folder}: the state folder cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(held, 32).decode(errors="replace").strip()
        os.close(held)
        if not isinstance(error, BlockingIOError):
            raise NotReady(f"{file}: cannot be locked: {error.strerror}") from None
        who = f" (process {owner})" if owner else ""
        raise Refused(f"{folder}: another gnomon{who} uses this state: stop it, or choose another folder") from None
    os.ftruncate(held, 0)
    os.write(held, f"{os.getpid()}\n".encode())
    return held


def replica(folder: Path, anew: bool = False) -> str:
    """Returns the name of the server that keeps its state here, over all its lives; one is given where none is.

    A server that begins anew does not know what it counted under its old name, and gets another.
    """
    file = folder / REPLICA
    try:
        if anew or not file.exists():
            files.write(file, uuid.uuid4().hex)
        return file.read_text().strip()
    except OSError as error:
        raise NotReady(f"{file}: cannot be read or written: {error.strerror}") from None
