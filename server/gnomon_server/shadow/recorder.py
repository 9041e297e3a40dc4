"""The recorder: writes what became of mirrored requests to segments, within bounds of bytes and age."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from gnomon_server.settings import RecordingSettings, Settings
from gnomon_server.shadow import recording
from gnomon_server.shadow.outcome import Ended
from gnomon_server.shadow.recording import MAGIC, SUFFIX, Frame, Head, Missing
from gnomon_server.shadow.trial import Shadow
from gnomon_server.wire.record import Loss, Record

log = logging.getLogger(__name__)

# In the folder of the state: recordings by model and version.
FOLDER: Final = "recordings"
# A segment takes this part of either bound, so that removing the oldest one removes little.
PARTS: Final = 4
# When it was begun, in nanoseconds since the epoch, and the process that wrote it.
NAME: Final = re.compile(r"(\d{20})-\d+" + re.escape(SUFFIX))


def recorder(settings: Settings, shadow: Shadow) -> Recorder | None:
    """Returns the recorder of a shadow; None if its model is not recorded."""
    wished = settings.model(shadow.model).recording
    if not wished.enabled:
        return None
    folder = Path(settings.state) / FOLDER / shadow.model / str(shadow.version)
    return Recorder(
        folder, wished, Head(shadow.model, shadow.version, shadow.digest, round(settings.mirror.deadline * 1e9))
    )


class Recorder:
    """Writes the segments of one shadow; for one thread.

    Each frame is one write, so that it outlives this process. What cannot be written ends the recording and nothing
    else: the shadow goes on.
    """

    def __init__(
        self, folder: Path, settings: RecordingSettings, head: Head, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._folder = folder
        self._max_bytes = settings.max_bytes
        self._max_age_ns = round(settings.max_age * 1e9)
        self._head = head
        self._clock = clock
        self._open: _Open | None = None
        # Why nothing is recorded any more; empty while it is.
        self.failure = ""
        # Runs that alone are larger than what a recording may take.
        self.skipped = 0

    def settle(self, records: Sequence[Record], ended: Sequence[Ended]) -> None:
        """Records what became of requests; `records` are in the order in which they ran."""
        self._keep(recording.runs(records, ended))

    def lost(self, loss: Loss) -> None:
        """Records that requests were selected and did not come."""
        self._keep((Missing(*loss),))

    def _keep(self, frames: Iterable[Frame]) -> None:
        if self.failure:
            return
        try:
            for frame in frames:
                self._write(recording.encode(frame))
        except OSError as error:
            self._fail(error)

    def tend(self) -> None:
        """Ends a segment that is old enough and removes what is too old; call it now and then."""
        if self.failure:
            return
        if self._open is not None and self._clock() - self._open.created_ns > self._max_age_ns // PARTS:
            self.close()
        try:
            self._remove(self._max_bytes)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Ends the segment; the next request begins another one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _fail(self, error: OSError) -> None:
        self.failure = f"recording to {self._folder} ended: {error.strerror}"
        log.error("%s", self.failure)
        self.close()

    def _write(self, frame: bytes) -> None:
        if self._open is not None and self._open.size + len(frame) > self._max_bytes // PARTS:
            self.close()
        if self._open is not None:
            self._open.append(frame)
            return
        created_ns = self._clock()
        begin = MAGIC + recording.encode(msgspec.structs.replace(self._head, created_ns=created_ns))
        size = len(begin) + len(frame)
        if size > self._max_bytes:
            self.skipped += 1
            return
        self._remove(self._max_bytes - max(self._max_bytes // PARTS, size))
        self._open = _Open(self._folder, created_ns)
        self._open.append(begin + frame)

    def _remove(self, most: int) -> None:
        """Removes the oldest segments until the rest is young enough and takes at most so many bytes."""
        sizes = {path: _size(path) for path in sorted(self._folder.glob(f"*{SUFFIX}")) if NAME.fullmatch(path.name)}
        total, oldest = sum(sizes.values()), self._clock() - self._max_age_ns
        for path, size in sizes.items():
            if total <= most and int(path.name[:20]) >= oldest:
                return
            if self._open is None or path != self._open.path:
                path.unlink(missing_ok=True)
                total -= size


class _Open:
    """A segment that is being written; raises OSError."""

    def __init__(self, folder: Path, created_ns: int) -> None:
        # The requests of users: nobody else may read them.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.created_ns = created_ns
        self.path = folder / f"{created_ns:020d}-{os.getpid()}{SUFFIX}"
        self.size = 0
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def append(self, data: bytes) -> None:
        written = os.write(self._file, data)
        if written < len(data):
            # A full disk took a part: cut that off, so that the segment ends with a whole frame.
            os.ftruncate(self._file, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(data)

    def close(self) -> None:
        os.close(self._file)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # Another worker of the same shadow, which is on its way out, removed it.
        return 0
