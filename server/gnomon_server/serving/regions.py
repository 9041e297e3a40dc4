"""Regions: system shared memory of clients on this machine, in which inputs lie and outputs are put.

A region is read with pread and written with pwrite, and never mapped. Its owner may truncate it at any time, and a
process that touches a mapping past the end is killed by SIGBUS. What is read is a copy, so that a client that goes on
writing changes neither what was checked nor what a shadow is given.
"""

from __future__ import annotations

import os
import re
import stat
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from gnomon_server.errors import GnomonError, InvalidRequest, NotFound, NotOffered, quoted
from gnomon_server.wire.plans import RegionRef

# Where Linux keeps what shm_open(3) opens.
ROOT: Final = Path("/dev/shm")  # noqa: S108 - not a temporary file of ours
# A name of shm_open: one slash at most, at its begin, and none of those that name a folder.
KEY: Final = re.compile(r"/?(?!\.{1,2}$)[^/\0]{1,254}")
MOST_NAME: Final = 255


class Region:
    """One region, opened; it is closed once nothing refers to it, so that a request in progress can finish."""

    def __init__(self, ref: RegionRef) -> None:
        """Raises InvalidRequest, NotFound or NotOffered if the memory is not there, or smaller than it should be."""
        self.ref = ref
        self._file = _opened(ref.key, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        # Opened when an output is to be put here for the first time.
        self._writable: int | None = None
        size = os.fstat(self._file).st_size
        if ref.offset + ref.byte_size > size:
            shown = f"expected at least {ref.offset + ref.byte_size} bytes in key {quoted(ref.key)}, received {size}"
            raise InvalidRequest(f"shared memory region {quoted(ref.name)}: {shown}")

    def read(self, offset: int, size: int) -> bytes:
        """Returns a copy of `size` bytes; raises InvalidRequest if they are not within the region."""
        self._check(offset, size)
        begin, parts, left = self.ref.offset + offset, [], size
        while left and (part := os.pread(self._file, left, begin + size - left)):
            parts.append(part)
            left -= len(part)
        if left:
            raise self._smaller(size, size - left)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Puts bytes there; raises InvalidRequest if they are not within the region, or it cannot be written."""
        self._check(offset, len(data))
        file = self._for_writing()
        begin = self.ref.offset + offset
        # To write past the end would make the memory larger.
        if begin + len(data) > os.fstat(file).st_size:
            raise self._smaller(len(data), max(0, os.fstat(file).st_size - begin))
        written = 0
        while written < len(data):
            written += os.pwrite(file, memoryview(data)[written:], begin + written)

    def _check(self, offset: int, size: int) -> None:
        if offset + size > self.ref.byte_size:
            shown = f"expected at most {self.ref.byte_size} bytes, received {size} from offset {offset}"
            raise InvalidRequest(f"shared memory region {quoted(self.ref.name)}: {shown}")

    def _for_writing(self) -> int:
        if self._writable is None:
            # Through the descriptor, so that it is the same memory whatever its name means by now.
            try:
                file = os.open(f"/proc/self/fd/{self._file}", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                shown = f"expected memory that can be written, received: {error.strerror}"
                raise InvalidRequest(f"shared memory region {quoted(self.ref.name)}: {shown}") from None
            weakref.finalize(self, os.close, file)
            self._writable = file
        return self._writable

    def _smaller(self, expected: int, received: int) -> InvalidRequest:
        shown = f"expected {expected} bytes, received {received}: its memory is smaller now than it was registered"
        return InvalidRequest(f"shared memory region {quoted(self.ref.name)}: {shown}")


class Regions:
    """The regions of a frontend, as control told it; belongs to its event loop."""

    def __init__(self) -> None:
        self._regions: dict[str, Region | GnomonError] = {}

    def wish(self, refs: Iterable[RegionRef]) -> None:
        """Opens what is new, and lets go of what is not there any more."""
        before = self._regions
        self._regions = {ref.name: self._kept(before.get(ref.name), ref) for ref in refs}

    def get(self, name: str) -> Region:
        """Returns a region; raises NotFound, or why this process cannot open it."""
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"shared memory region {quoted(name)} not found")
        if isinstance(region, GnomonError):
            raise region
        return region

    @staticmethod
    def _kept(known: Region | GnomonError | None, ref: RegionRef) -> Region | GnomonError:
        if isinstance(known, Region) and known.ref == ref:
            return known
        try:
            return Region(ref)
        except GnomonError as error:
            return error


def _opened(key: str, flags: int) -> int:
    if not KEY.fullmatch(key):
        raise InvalidRequest(f"shared memory key: expected a name as of shm_open, received {quoted(key)}")
    if not ROOT.is_dir():
        raise NotOffered("shared memory is not offered on this system")
    try:
        # Never through a link, and without waiting for the other end of what is no memory.
        file = os.open(ROOT / key.removeprefix("/"), flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"shared memory key {quoted(key)} not found") from None
    except (OSError, ValueError) as error:
        shown = getattr(error, "strerror", None) or "a name that none can have"
        raise InvalidRequest(f"shared memory key {quoted(key)}: expected memory to open, received: {shown}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidRequest(f"shared memory key {quoted(key)}: expected memory, received something else")
    return file
