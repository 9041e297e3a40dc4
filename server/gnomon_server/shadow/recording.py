"""The recording: mirrored requests on disk, as `docs/recording.md` describes the format.

A segment is a file of frames that only grows. A frame is whole or it is not there: its checksum tells, so that a writer
that was killed costs the frame it was writing and nothing before it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from gnomon_server.errors import InvalidRequest
from gnomon_server.shadow.comparing import Compared
from gnomon_server.shadow.outcome import COMPARED, Ended
from gnomon_server.wire.record import Record

SUFFIX: Final = ".gnomon"
MAGIC: Final = b"gnomonR1"
# Bytes of the body, and its CRC-32 as in zlib.
_PREFIX: Final = struct.Struct("<II")


class Head(msgspec.Struct, frozen=True, tag="head", tag_field="kind"):
    """The first frame of a segment: what was recorded."""

    model: str
    # The version that was run on the requests, and the digest of its file.
    shadow: int
    digest: str
    # Nanoseconds after the primary's answer by which the shadow had to answer.
    deadline_ns: int
    # Nanoseconds since the epoch: when the segment was begun.
    created_ns: int = 0


class OutputFound(msgspec.Struct, frozen=True, array_like=True):
    """One output, compared in one run."""

    output: str
    rows: int
    disagreements: int
    divergence_sum: float
    divergence_max: float


class Found(msgspec.Struct, frozen=True, array_like=True):
    """What one run adds to the tally."""

    # Sum over compared requests of the share of rows that agree, and how many requests disagree anywhere.
    agreement_sum: float = 0.0
    disagreeing: int = 0
    outputs: tuple[OutputFound, ...] = ()


class Run(msgspec.Struct, frozen=True, tag="run", tag_field="kind"):
    """Requests that were run together, in this order, and what became of each; or requests that were never run."""

    # Nanoseconds since the epoch, of the shadow's run; 0 if it did not run.
    start_ns: int
    end_ns: int
    # One a record.
    outcomes: tuple[str, ...]
    found: Found
    records: tuple[Record, ...]


class Missing(msgspec.Struct, frozen=True, tag="missing", tag_field="kind"):
    """Requests that were selected and never reached the worker, so that nothing but their number is known."""

    # Version of the primary.
    primary: int
    # For want of room, and since the primary failed on them.
    dropped: int
    primary_errors: int


Frame = Head | Run | Missing
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """Returns a frame as it stands in a segment."""
    body = _ENCODER.encode(frame)
    return _PREFIX.pack(len(body), zlib.crc32(body)) + body


def runs(records: Sequence[Record], ended: Sequence[Ended]) -> Iterator[Run]:
    """Yields what to record of a batch: one run of those that ran, and one for each other fate."""
    ran = [one for one in ended if one.end_ns]
    if ran:
        known = _outcomes(ran)
        together = tuple(record for record in records if id(record) in known)
        yield Run(ran[0].start_ns, ran[0].end_ns, outcomes(together, ran), found(ran), together)
    for one in ended:
        if not one.end_ns:
            aside = tuple(records_of(one))
            yield Run(0, 0, (_outcome(one),) * len(aside), Found(), aside)


def found(ended: Sequence[Ended]) -> Found:
    """Returns what the comparisons of one run found; there is one at most."""
    for one in ended:
        if isinstance(one, Compared):
            outputs = tuple(
                OutputFound(
                    output=name,
                    rows=len(divergences),
                    disagreements=int(one.disagreements[name].sum()),
                    divergence_sum=float(divergences.sum()),
                    divergence_max=float(divergences.max(initial=0)),
                )
                for name, divergences in one.divergences.items()
            )
            return Found(float(one.agreement.sum()), int((one.agreement < 1).sum()), outputs)
    return Found()


def outcomes(records: Sequence[Record], ended: Sequence[Ended]) -> tuple[str, ...]:
    """Returns the outcome of each record."""
    known = _outcomes(ended)
    return tuple(known[id(record)] for record in records)


def records_of(ended: Ended) -> Sequence[Record]:
    """Returns the records of one outcome."""
    return ended.batch.records if isinstance(ended, Compared) else ended.records


class Segment:
    """One file, read once from its begin; use it in a `with` block.

    After the last frame, `cut` says how many bytes at the end are not a whole frame. Raises InvalidRequest for a file
    that is no segment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cut = 0
        # Those between the runs that were read.
        self.missing: list[Missing] = []
        self._ended = False
        try:
            self._size = path.stat().st_size
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise InvalidRequest(f"{path}: cannot be read: {error.strerror}") from None
        if self._file.read(len(MAGIC)) != MAGIC:
            self._file.close()
            raise InvalidRequest(f"{path}: expected a recording that begins with {MAGIC.decode()}")
        head = self._next()
        # None: its writer was killed before it had written anything.
        self.head = head if isinstance(head, Head) else None

    def __iter__(self) -> Iterator[Run]:
        """Yields what was recorded, in order."""
        while isinstance(frame := self._next(), Run | Missing):
            if isinstance(frame, Run):
                yield frame
            else:
                self.missing.append(frame)

    def _next(self) -> Frame | None:
        """Returns the next frame; None at the end, which is the first frame that is not whole."""
        if self._ended:
            return None
        begin = self._file.tell()
        prefix = self._file.read(_PREFIX.size)
        frame = None
        if len(prefix) == _PREFIX.size:
            size, checksum = _PREFIX.unpack(prefix)
            # A length that was never written whole must not be believed.
            body = self._file.read(size) if size <= self._size - begin else b""
            if len(body) == size and zlib.crc32(body) == checksum:
                frame = _decoded(body)
        if frame is None:
            self._ended = True
            self.cut = self._size - begin
        return frame

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def segments(path: Path) -> list[Path]:
    """Returns the segments of a recording in order: the file itself, or those in a folder; raises InvalidRequest."""
    if not path.is_dir():
        return [path]
    names = sorted(path.glob(f"*{SUFFIX}"))
    if not names:
        raise InvalidRequest(f"{path}: expected files *{SUFFIX}, found none")
    return names


def _decoded(body: bytes) -> Frame | None:
    try:
        return _DECODER.decode(body)
    except msgspec.MsgspecError:
        return None


def _outcomes(ended: Sequence[Ended]) -> dict[int, str]:
    """Returns the outcome by the identity of each record: two may be equal."""
    return {id(record): _outcome(one) for one in ended for record in records_of(one)}


def _outcome(ended: Ended) -> str:
    return COMPARED if isinstance(ended, Compared) else ended.outcome
